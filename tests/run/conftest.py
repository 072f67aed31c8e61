"""A real S3 server on loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator

import boto3
import fsspec
import pytest
from moto.server import ThreadedMotoServer

SECRET = "a-secret-of-the-test"  # noqa: S105 - moto takes any


@pytest.fixture(scope="package")
def s3() -> Iterator[str]:
    """A bucket on a real server; its address and credentials are in the environment, as on a node with a role."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    _, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ |= environment
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
