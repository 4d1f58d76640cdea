"""Large files of the hub, over plain HTTP into `huggingface_hub`'s cache, so that a download that ended goes on later.

The library itself takes a broken connection up again, but (2.4.0 does) it throws away what it had when its process
ends: too much for files of tens of gigabytes. Here the part stays beside the place where the library wants the file,
under the name of its content; the library finds the whole file there and does the rest. Two processes that want the
same file wait for each other.
"""

import fcntl
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LEAST_BYTES = 20 << 20  # smaller files are soon there again; the library writes pieces of 10 MB
MOST_BYTES = 50 * 10**9  # beyond that the hub serves files in its own way only


def fetch_large(hub: Any, repo: str, name: str) -> None:
    """Put file `name` of `repo` where `hub.hf_hub_download` will find it; nothing for those that are there, small, or
    larger than HTTP may be. `hub`: the module."""
    from huggingface_hub import constants, file_download

    url = hub.hf_hub_url(repo, name)
    headers = hub.utils.build_hf_headers()
    facts = hub.get_hf_file_metadata(url, headers=headers)
    size, etag = facts.size or 0, facts.etag or ""
    if not LEAST_BYTES <= size <= MOST_BYTES or not re.fullmatch(r"[\w-]{8,128}", etag):
        return
    folder = Path(constants.HF_HUB_CACHE) / file_download.repo_folder_name(repo_id=repo, repo_type="model") / "blobs"
    whole, part = folder / etag, folder / f"{etag}.part"
    if whole.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    if urlsplit(facts.location).netloc != urlsplit(url).netloc:
        headers = {key: value for key, value in headers.items() if key.lower() != "authorization"}  # not for others
    with part.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if whole.exists():  # another process was quicker
            return
        if file.seek(0, 2) > size:
            file.truncate(0)
        told = {"headers": headers, "expected_size": size, "displayed_filename": name}
        file_download.http_get(facts.location, file, resume_size=file.tell(), **told)
        file.flush()
        part.replace(whole)
