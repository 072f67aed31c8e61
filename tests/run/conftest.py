"""A real S3 server on loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from urllib.parse import urlsplit

import boto3
import fsspec
import pytest
from moto.server import ThreadedMotoServer

from tests.conftest import S3

SECRET = S3["AWS_SECRET_ACCESS_KEY"]


@pytest.fixture(scope="package")
def s3() -> Iterator[str]:
    """A bucket on a real server; its address and credentials are in the environment, as on a node with a role."""
    port = urlsplit(S3["AWS_ENDPOINT_URL"]).port
    assert port is not None
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port)
    server.start()
    before = {name: os.environ.get(name) for name in S3}
    os.environ |= S3
    # A client that was made before knows another server, or none.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    boto3.client("s3").create_bucket(Bucket="bucket")
    yield "s3://bucket"
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()
