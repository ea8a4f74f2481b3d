# What every machine gets.
file '/etc/motd' do
  content "This is #{node['hostname']}, configured by Cinc.\n"
  owner 'root'
  group 'root'
  mode '0644'
end
