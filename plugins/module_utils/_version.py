"""The version of Backstay, and of the protocol between its clients and the transaction's service."""

from __future__ import annotations

VERSION = "0.1.0"
PROTOCOL = 3
