"""URLs and their file systems of fsspec: what files are there, calls with retries, messages without secrets."""

import hashlib
import logging
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus, unquote, unquote_plus, urlsplit

import tenacity

from seqwright.errors import ClientError

T = TypeVar("T")

ATTEMPTS = 6
"""Attempts at a request, with waits of about 0.5, 1, 2, 4 and 8 seconds between them."""

_OPTIONS: Mapping[str, Mapping[str, object]] = {
    "s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 1}}}
}
"""Options of file systems besides the user's configuration; `Remote.call` does the retries."""

_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"})
"""Here a file appears when all of it has arrived; elsewhere it is sent under another name and renamed."""

_WITH_HOST = frozenset({"http", "https", "ftp", "sftp", "ssh", "smb"})
"""Schemes whose URLs name a host."""

_WITHOUT_CREDENTIALS = frozenset({"s3", "s3a", "gs", "gcs"})
"""Schemes whose URLs have no place for credentials."""

_READ_ONLY = frozenset({"http", "https", "data", "git", "github", "gist", "libarchive", "reference", "tar", "zip"})
"""Schemes that cannot be written to."""

_FINAL = (ClientError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)
_CREDENTIAL_ERRORS = frozenset({"NoCredentialsError", "PartialCredentialsError", "PermissionError"})
_FINAL_NAMES = _CREDENTIAL_ERRORS | {"ParamValidationError", "ValueError", "TypeError"}
"""Names of errors that no further attempt mends; their classes are in packages that need not be installed."""

_LOGGER = logging.getLogger(__name__)


def is_remote(location: str) -> bool:
    """Whether a path is a URL, or is meant to be one, such as `s3:/bucket/key`."""
    return "://" in location or _SCHEME.match(location) is not None


def redacted(location: str) -> str:
    """A path for messages: a URL loses its user, password and query, which may be secrets."""
    return without_secrets(location) if is_remote(location) else location


def without_secrets(text: str) -> str:
    """A text whose URLs have lost user, password, query and fragment."""
    return _QUERY.sub(r"\1", _USER.sub("", text))


def join(location: str, name: str) -> str:
    """The path or URL of a name in a folder."""
    return f"{location.rstrip('/')}/{name}" if is_remote(location) else str(Path(location) / name)


def add_suffix(location: str, suffix: str) -> str:
    """The path or URL of a file or folder to be written, with a suffix added to its name.

    Raises:
        ClientError: it is a URL without a name, for example of a bucket.
    """
    return f"{Remote.to_write(location).url.rstrip('/') if is_remote(location) else location.rstrip('/')}{suffix}"


def require_local(path: Path) -> None:
    """Check that a path that has to be local is not a URL.

    Raises:
        ClientError: it is one.
    """
    if is_remote(str(path)):
        raise ClientError("only a local folder will do here, not a URL (write a folder of such a name from / on)")


@dataclass(frozen=True)
class RemoteFile:
    """A file at a URL.

    Attributes:
        name: its name relative to the URL; if the URL is the file's own, the last part of that.
        path: its path in the file system.
        size: in bytes; None if not known.
        version: a text that changes with the content; empty if the file system tells no version.
    """

    name: str
    path: str
    size: int | None
    version: str


class Remote:
    """A URL and its file system.

    Args:
        url: the URL.

    Attributes:
        url: the same.
        fs: the file system of fsspec.
        path: the path in it.
        is_object_store: whether a file appears there only when all of it has arrived.

    Raises:
        ClientError: the URL is malformed, its scheme is unknown or needs a package, or the service refuses.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url
        schemes = _checked_schemes(url)
        address = url if url.endswith("://") else url.rstrip("/")
        self.is_object_store = schemes[0] in _OBJECT_STORES

        def connect() -> tuple[Any, str]:
            try:
                found = url_to_fs(address, skip_instance_cache=True, **_OPTIONS.get(schemes[0], {}))
            except ImportError as error:
                advice = " (pip install 'seqwright[s3]')" if schemes[-1] in ("s3", "s3a") else ""
                raise ClientError(f"{self}: {schemes[-1]}:// needs another package: {error}{advice}") from error
            return found[0], found[1]

        self.fs, self.path = self.call("cannot open", connect)

    @classmethod
    def to_write(cls, url: str) -> "Remote":
        """Open a URL that can be written to, as far as the URL tells.

        Raises:
            ClientError: as the constructor, or it cannot be written to.
        """
        if _READ_ONLY.intersection(_checked_schemes(url)):
            raise ClientError(f"{redacted(url)} cannot be written to: name a folder, or another kind of URL")
        remote = cls(url)
        if not posixpath.basename(remote.path.rstrip("/")) or (remote.is_object_store and "/" not in remote.path):
            raise ClientError(f"{remote} has no name to write to: add one, as in {redacted(url).rstrip('/')}/name")
        return remote

    def __str__(self) -> str:
        return redacted(self.url)

    @property
    def name(self) -> str:
        """The last part of the URL, which names local copies."""
        return posixpath.basename(urlsplit(self.url).path.rstrip("/")) or "all"

    def call(self, failure: str, function: Callable[..., T], *arguments: object, **options: object) -> T:
        """Call a function of the file system, again after each error that may pass, and return its result.

        Raises:
            ClientError: the last attempt failed, or the error is final; the message starts with `failure`, for example
                `cannot read`.
        """
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_transient),
            wait=tenacity.wait_exponential(0.5, max=20) + tenacity.wait_random(0, 0.5),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            before_sleep=lambda state: self._log_attempt(failure, state),
            reraise=True,
        )
        try:
            return attempts(function, *arguments, **options)
        except ClientError:
            raise
        except Exception as error:
            if isinstance(error, FileNotFoundError) and _http_error(error) is None:
                raise ClientError(f"{failure} {self}: there is no such file or folder, or no such bucket") from error
            raise ClientError(f"{failure} {self}: {self.reason(error)}") from error

    def _log_attempt(self, failure: str, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        attempt = f"attempt {state.attempt_number} of {ATTEMPTS}"
        _LOGGER.warning("%s %s: %s; trying again (%s)", failure, self, self.reason(error), attempt)

    def reason(self, error: BaseException | None) -> str:
        """The text of an error, without the secrets of the URL."""
        error = (error and _http_error(error)) or error
        text = without_secrets(" ".join(str(error).split()) or type(error).__name__)
        for secret in sorted(_secrets_of(self.url), key=len, reverse=True):
            text = text.replace(secret, "***")
        if isinstance(error, PermissionError) or type(error).__name__ in _CREDENTIAL_ERRORS:
            text += " (check the credentials, and what they allow)"
        return text

    def files(self) -> list[RemoteFile]:
        """Every file of the folder, or the file itself; an empty list if there is nothing.

        Raises:
            ClientError: the service refuses or does not answer, or a name leads out of the folder.
        """
        self.fs.invalidate_cache()
        found: Mapping[str, Mapping[str, Any]] = self.call("cannot read", self._find)
        files = []
        for path, info in sorted(found.items()):
            name = path.removeprefix(self.path).strip("/") if path != self.path else self.name
            if info.get("type") == "directory" or path.endswith("/"):
                continue
            if any(part in ("", ".", "..") for part in name.split("/")):
                raise ClientError(f"cannot read {self}: the name {name!r} leads out of it")
            files.append(RemoteFile(name, path, info.get("size"), version_of(info)))
        return files

    def _find(self) -> Mapping[str, Mapping[str, Any]]:
        try:
            info = self.fs.info(self.path)
        except FileNotFoundError as error:
            if _http_error(error) is not None:
                raise
            if not self.is_object_store:
                return {}
            # A prefix without keys, unless the bucket does not exist either, which `find` tells.
            info = {"type": "directory"}
        return {self.path: info} if info["type"] == "file" else self.fs.find(self.path, detail=True)


def _secrets_of(url: str) -> set[str]:
    """The parts of a URL that may be secrets, as they are and in the forms that libraries bring them into."""
    user, query = "".join(_USER_PART.findall(url)), url.partition("?")[2]
    parts = [user, *user.split(":")[1:], query, *(pair.partition("=")[2] for pair in query.split("&"))]
    forms = {
        form for part in parts for form in (part, unquote(part), unquote_plus(part), quote(part), quote_plus(part))
    }
    return {form for form in forms if len(form) >= _SHORTEST_SECRET}


def _checked_schemes(url: str) -> list[str]:
    """The schemes of a URL; a chained one such as `filecache::https://host/file` has several.

    Raises:
        ClientError: it is malformed, has credentials where its store takes none, or a scheme is unknown.
    """
    import fsspec

    schemes, known = [], sorted(fsspec.available_protocols())
    for part in url.split("::"):
        scheme, separator, rest = part.partition("://")
        try:
            address = urlsplit(part)
            is_complete = bool(separator or part != url) and (scheme not in _WITH_HOST or address.port != 0)
        except ValueError:  # a port that is no number, half an IPv6 address
            is_complete = False
        if not is_complete or (separator and not address.hostname and scheme in _OBJECT_STORES | _WITH_HOST):
            raise ClientError(
                f"{redacted(url)} is not a complete URL: they look like s3://bucket/folder/name or "
                "https://host/folder/name (put ./ before a local path)"
            )
        if scheme not in known:
            raise ClientError(f"{redacted(url)}: {scheme}:// is unknown; known are {', '.join(known)}")
        if scheme in _WITHOUT_CREDENTIALS and _USER.search(part):
            raise ClientError(f"{redacted(url)}: leave the credentials out of it; {scheme}:// finds them by itself")
        if posixpath.basename(rest.rstrip("/")) in (".", ".."):
            raise ClientError(f"{redacted(url)} must end with a name, not with dots")
        schemes.append(scheme)
    return schemes


_SCHEME = re.compile(r"\w[\w+.-]+:/")
_USER_PART = re.compile(r"(?<=://)(?:[^/?#\s]*|(?!arn:)[^/?#\s:]*:(?!\d+/)[^?#\s]*)(?=@)")
"""User and password before a host; a password may have slashes, as the secrets of S3 have."""

_USER = re.compile(f"{_USER_PART.pattern}@")
_QUERY = re.compile(r"(\w://[^?#\s'\"]*)[?#][^\s'\")]*")

_SHORTEST_SECRET = 4
"""Characters; shorter values are no secrets, and too common in texts to be removed from them."""


_VERSION_KEYS = (
    *("ETag", "etag", "md5Hash", "mtime", "created", "LastModified", "last_modified"),
    *("Last-Modified", "Content-MD5", "Digest", "modified", "modify"),
)
"""Entries of a file system's `info` that change with a file's content."""


def version_of(info: Mapping[str, Any]) -> str:
    """The version that a file system's `info` of a file tells; see `RemoteFile.version`."""
    values = [str(info[key]) for key in _VERSION_KEYS if info.get(key)]
    return digest([*values, str(info.get("size"))]) if values else ""


def _http_error(error: BaseException) -> BaseException | None:
    """The error of HTTP that fsspec reports as a missing file; None if the file is really missing."""
    cause = error.__cause__
    is_http = cause is not None and type(cause).__module__.startswith("aiohttp")
    return cause if is_http and getattr(cause, "status", 0) not in _MISSING else None


_MISSING, _TRANSIENT = (404, 410), (408, 429)
"""Statuses of HTTP below 500: those of missing files, and those after which to try again."""


def _is_transient(error: BaseException) -> bool:
    """Whether another attempt may succeed."""
    error = _http_error(error) or error
    status = getattr(error, "status", None)
    if isinstance(status, int) and status:
        return status >= 500 or status in _TRANSIENT
    final = isinstance(error, _FINAL) or type(error).__name__ in _FINAL_NAMES
    return isinstance(error, Exception) and not final


def digest(parts: Sequence[str]) -> str:
    """The SHA-256 of texts, shortened to 32 characters: a name for a folder of the cache."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
