"""Start the stores of the scenario on a host beside it; write down what opens them: start_stores.py LAB HOST FILE."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from backstay_lab.hosts import Lab
from backstay_lab.stores import S3Store, SftpStore

APPLICATION, PASSWORD = "audit-portal", "of-no-worth-outside-this-scenario"


def main(lab: str, host: str, file: str) -> None:
    sftp, s3 = SftpStore(Lab(lab), host), S3Store(Lab(lab), host)
    sftp.start()
    s3.start()
    opens = {"disk": {}, "sftp": sftp.place(APPLICATION).secrets, "s3": s3.place(APPLICATION).secrets}
    target = Path(file)
    target.touch(mode=0o600)
    target.write_text(
        json.dumps({APPLICATION: {name: {"password": PASSWORD, **secret} for name, secret in opens.items()}}),
        encoding="utf-8",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
