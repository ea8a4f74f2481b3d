"""Fixtures of the fault rows."""

from __future__ import annotations

import ssl

import pytest
import trustme

from tests.unit.imgbuilder.conftest import home, publisher_keys, pybuilder
from tests.unit.imgrepo.conftest import pin, repository, signing_key

__all__ = ["home", "pin", "publisher_keys", "pybuilder", "repository", "signing_key"]


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    """Return what a server of this machine proves itself with, and the file of its authority."""
    authority = trustme.CA()
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context, str(file)
