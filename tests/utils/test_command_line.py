"""What the parsers of all commands have in common."""

import argparse

import pytest

from mova_jax.utils.command_line import local_path


def test_a_folder_may_be_a_url_of_this_machine():
    for text, path in (("runs/a", "runs/a"), ("/a,b c", "/a,b c"), ("file:///tmp/x", "/tmp/x")):
        assert local_path(text) == path
    for text in ("gs://bucket/run", "s3://a/b", "file://host/x", "file://x"):
        with pytest.raises(argparse.ArgumentTypeError, match=f"got the URL {text}, expected"):
            local_path(text)
