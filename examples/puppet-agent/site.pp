# What every machine gets.
file { '/etc/motd':
  ensure  => file,
  mode    => '0644',
  content => "This is ${facts['networking']['hostname']}, configured by Puppet.\n",
}

group { 'operators':
  ensure => present,
}

user { 'operator':
  ensure     => present,
  gid        => 'operators',
  managehome => true,
  shell      => '/bin/bash',
  require    => Group['operators'],
}
