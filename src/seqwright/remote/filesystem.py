"""A URL and the file system that knows it: what is there, and how to ask again and again without telling secrets."""

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
"""Tries of a request, with waits of about 0.5, 1, 2, 4 and 8 seconds between them."""

_OPTIONS: Mapping[str, Mapping[str, object]] = {
    "s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 1}}}
}
"""What file systems are told beyond their own configuration; repeating is done here."""

_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"})
"""Object stores: what is sent there appears when all of it has arrived. Elsewhere it is renamed into place."""

_HOSTS = frozenset({"http", "https", "ftp", "sftp", "ssh", "smb"})
"""Schemes whose URLs name a host."""

_BARE = frozenset({"s3", "s3a", "gs", "gcs"})
"""Stores whose URLs have no place for credentials."""

_READ_ONLY = frozenset({"http", "https", "data", "git", "github", "gist", "libarchive", "reference", "tar", "zip"})
"""Schemes of what cannot be written to."""

_FINAL = (ClientError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)
_CREDENTIALS = frozenset({"NoCredentialsError", "PartialCredentialsError", "PermissionError"})
_FINAL_NAMES = _CREDENTIALS | {"ParamValidationError", "ValueError", "TypeError"}

_LOGGER = logging.getLogger(__name__)


def is_remote(location: str) -> bool:
    """Whether a path is a URL, or meant to be one: `s3:/bucket/key` is no folder `s3:`."""
    return "://" in location or _SCHEME.match(location) is not None


def shown(location: str) -> str:
    """A path as it may appear in messages: a URL without user, password and query, any of which may be a secret."""
    return without_secrets(location) if is_remote(location) else location


def without_secrets(text: str) -> str:
    """A text whose URLs have lost user, password, query and fragment."""
    return _QUERY.sub(r"\1", _USER.sub("", text))


def join(location: str, name: str) -> str:
    """The path of something within a folder."""
    return f"{location.rstrip('/')}/{name}" if is_remote(location) else str(Path(location) / name)


def beside(location: str, suffix: str) -> str:
    """The path of what is called like a file or folder to be written, and a suffix.

    Raises:
        ClientError: it is a URL that names nothing, a bucket for one.
    """
    return f"{Remote.to_write(location).url.rstrip('/') if is_remote(location) else location.rstrip('/')}{suffix}"


def require_local(path: Path) -> None:
    """Check that a path, of those that can only be local, was not meant for a URL.

    Raises:
        ClientError: it was.
    """
    if is_remote(str(path)):
        raise ClientError("only a local folder will do here, not a URL (write a folder of such a name from / on)")


@dataclass(frozen=True)
class RemoteFile:
    """A file of the other side.

    Attributes:
        name: relative to what was asked for; its last part where that is the file itself.
        path: as the file system calls it.
        size: in bytes, where that is known.
        version: differs when the content does; empty where the other side tells nothing of the kind.
    """

    name: str
    path: str
    size: int | None
    version: str


class Remote:
    """A URL and the file system that knows it."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url
        schemes = _schemes_of(url)
        address = url if url.endswith("://") else url.rstrip("/")
        self.is_whole = schemes[0] in _WHOLE

        def connect() -> tuple[Any, str]:
            try:
                found = url_to_fs(address, skip_instance_cache=True, **_OPTIONS.get(schemes[0], {}))
            except ImportError as error:
                advice = " (pip install 'seqwright[s3]')" if schemes[-1] in ("s3", "s3a") else ""
                raise ClientError(f"{self}: {schemes[-1]}:// needs a package more: {error}{advice}") from error
            return found[0], found[1]

        self.fs, self.path = self.call("cannot open", connect)

    @classmethod
    def to_write(cls, url: str) -> "Remote":
        """One that can be written to, as far as its URL tells."""
        if _READ_ONLY.intersection(_schemes_of(url)):
            raise ClientError(f"{shown(url)} cannot be written to: name a folder, or another kind of URL")
        remote = cls(url)
        if not posixpath.basename(remote.path.rstrip("/")) or (remote.is_whole and "/" not in remote.path):
            raise ClientError(f"{remote} has no name to write to: add one, as in {shown(url).rstrip('/')}/name")
        return remote

    def __str__(self) -> str:
        return shown(self.url)

    @property
    def name(self) -> str:
        """What a copy of it is called: the URL's last part."""
        return posixpath.basename(urlsplit(self.url).path.rstrip("/")) or "all"

    def call(self, doing: str, function: Callable[..., T], *arguments: object, **options: object) -> T:
        """What a function of the file system gives, in the end.

        Raises:
            ClientError: it failed for good; the message starts with `doing`, `cannot read` for one.
        """
        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_may_pass),
            wait=tenacity.wait_exponential(0.5, max=20) + tenacity.wait_random(0, 0.5),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            before_sleep=lambda state: self._tell(doing, state),
            reraise=True,
        )
        try:
            return tries(function, *arguments, **options)
        except ClientError:
            raise
        except Exception as error:
            if isinstance(error, FileNotFoundError) and _failure_of_http(error) is None:
                raise ClientError(f"{doing} {self}: there is no such thing, or no such bucket") from error
            raise ClientError(f"{doing} {self}: {self.reason(error)}") from error

    def _tell(self, doing: str, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        tried = f"attempt {state.attempt_number} of {ATTEMPTS}"
        _LOGGER.warning("%s %s: %s; trying again (%s)", doing, self, self.reason(error), tried)

    def reason(self, error: BaseException | None) -> str:
        """What an error says, without the secrets of the URL."""
        error = (error and _failure_of_http(error)) or error
        text = without_secrets(" ".join(str(error).split()) or type(error).__name__)
        for secret in sorted(_secrets_of(self.url), key=len, reverse=True):
            text = text.replace(secret, "***")
        if isinstance(error, PermissionError) or type(error).__name__ in _CREDENTIALS:
            text += " (check the credentials, and what they allow)"
        return text

    def _find(self) -> Mapping[str, Mapping[str, Any]]:
        try:
            info = self.fs.info(self.path)
        except FileNotFoundError as error:
            if _failure_of_http(error) is not None:
                raise
            if not self.is_whole:
                return {}
            info = {"type": "directory"}  # a prefix without keys, unless the bucket is not there either
        return {self.path: info} if info["type"] == "file" else self.fs.find(self.path, detail=True)

    def files(self) -> list[RemoteFile]:
        """Every file of a folder, or the file itself; none where there is nothing."""
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


def _secrets_of(url: str) -> set[str]:
    """What of a URL may be a secret, as it is and in the forms that libraries bring it into."""
    user, query = "".join(_USER_PART.findall(url)), url.partition("?")[2]
    parts = [user, *user.split(":")[1:], query, *(pair.partition("=")[2] for pair in query.split("&"))]
    forms = {
        form for part in parts for form in (part, unquote(part), unquote_plus(part), quote(part), quote_plus(part))
    }
    return {form for form in forms if len(form) > _HARMLESS}


def _schemes_of(url: str) -> list[str]:
    """The schemes of a URL, more than one of a chained one such as `filecache::https://host/file`.

    Raises:
        ClientError: it is malformed, has credentials where its store takes none, or a scheme is unknown.
    """
    import fsspec

    schemes, known = [], sorted(fsspec.available_protocols())
    for part in url.split("::"):
        scheme, mark, rest = part.partition("://")
        try:
            address = urlsplit(part)
            is_whole = bool(mark or part != url) and (scheme not in _HOSTS or address.port != 0)
        except ValueError:  # a port that is no number, half an IPv6 address
            is_whole = False
        if not is_whole or (mark and not address.hostname and scheme in _WHOLE | _HOSTS):
            raise ClientError(
                f"{shown(url)} is not a whole URL: they look like s3://bucket/folder/name or https://host/folder/name "
                "(put ./ before a local path)"
            )
        if scheme not in known:
            raise ClientError(f"{shown(url)}: {scheme}:// is unknown; known are {', '.join(known)}")
        if scheme in _BARE and _USER.search(part):
            raise ClientError(f"{shown(url)}: leave the credentials out of it; {scheme}:// finds them by itself")
        if posixpath.basename(rest.rstrip("/")) in (".", ".."):
            raise ClientError(f"{shown(url)} must end with a name, not with dots")
        schemes.append(scheme)
    return schemes


_SCHEME = re.compile(r"\w[\w+.-]+:/")
_USER_PART = re.compile(r"(?<=://)(?:[^/?#\s]*|(?!arn:)[^/?#\s:]*:(?!\d+/)[^?#\s]*)(?=@)")
"""User and password before a host; a password may have slashes, the secrets of S3 for one."""

_USER = re.compile(f"{_USER_PART.pattern}@")
_QUERY = re.compile(r"(\w://[^?#\s'\"]*)[?#][^\s'\")]*")

_HARMLESS = 3
"""Characters of a value that is too short for a secret, and too common in texts to be left out of them."""


_VERSION = (
    *("ETag", "etag", "md5Hash", "mtime", "created", "LastModified", "last_modified"),
    *("Last-Modified", "Content-MD5", "Digest", "modified", "modify"),
)
"""What file systems call that which differs when a file's content does; they are asked for the size besides."""


def version_of(info: Mapping[str, Any]) -> str:
    """What a file system's `info` of a file tells of its version; see `RemoteFile.version`."""
    told = [str(info[key]) for key in _VERSION if info.get(key)]
    return digest([*told, str(info.get("size"))]) if told else ""


def _failure_of_http(error: BaseException) -> BaseException | None:
    """What went wrong with an HTTP server where fsspec makes a missing file of anything; None where it is missing."""
    cause = error.__cause__
    is_http = cause is not None and type(cause).__module__.startswith("aiohttp")
    return cause if is_http and getattr(cause, "status", 0) not in _MISSING else None


_MISSING, _PASSING = (404, 410), (408, 429)
"""Statuses of HTTP that say that there is nothing, and those below 500 that say to try again."""


def _may_pass(error: BaseException) -> bool:
    """Whether a failure may be over the next time."""
    error = _failure_of_http(error) or error
    status = getattr(error, "status", None)
    if isinstance(status, int) and status:
        return status >= 500 or status in _PASSING
    final = isinstance(error, _FINAL) or type(error).__name__ in _FINAL_NAMES
    return isinstance(error, Exception) and not final


def digest(parts: Sequence[str]) -> str:
    """A name for the parts together, that others have not; fit for a folder."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
