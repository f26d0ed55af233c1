"""Object stores: S3, Google Cloud Storage, Azure. They create exclusively by themselves: a conditional put.

fsspec reaches it through ``pipe_file(mode="create")`` only, and whole objects only: leaving ``open`` by an exception
publishes what was written so far. Beside that, each of the three packages needs to be told a thing or two: their own
retries are long enough to break any deadline, and their listings ask for more than is wanted, so each is asked for
pages of keys directly.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

from headrace._version import __version__
from headrace.storage.media.medium import Keys, Place
from headrace.storage.media.opening import filesystem_class, make_filesystem
from headrace.storage.media.remote import Remote

#: bytes up to which an object is written by one request, which leaves nothing behind if it is cut off. Beyond, it goes
#: in pieces, and a killed process leaves an unfinished upload, which only the bucket's life-cycle rules remove.
PIECE = 2**30
#: name of what is kept beside an object of which creation put it there
_MARK = "writer"


class ObjectStore(Remote):
    """What the three have in common."""

    #: for ``_pipe_file``
    writing: dict[str, Any] = {}  # noqa: RUF012 - never changed
    #: the option of ``_pipe_file`` for what is to be kept beside an object
    beside = "metadata"
    #: for ``_cat_file``
    reading: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, place: Place) -> None:
        self.filesystem = self._open(place)
        super().__init__(self.filesystem.loop, place.url, place.deadline)
        self._root = str(self.filesystem._strip_protocol(place.url)).strip("/")
        self._bucket, key, _ = self.filesystem.split_path(f"{self._root}/")
        self._prefix = f"{key.strip('/')}/" if key.strip("/") else ""

    def _open(self, place: Place) -> Any:
        raise NotImplementedError

    def _at(self, key: str) -> str:
        return f"{self._root}/{key}"

    async def _read(self, key: str) -> bytes:
        return bytes(await self.filesystem._cat_file(self._at(key), **self.reading))

    async def _create(self, key: str, data: bytes, mark: str) -> None:
        options = {**self.writing, self.beside: {_MARK: mark}}
        await self.filesystem._pipe_file(self._at(key), data, mode="create", **options)

    async def _is_own(self, key: str, data: bytes, mark: str) -> bool:
        return (await self._beside(key)).get(_MARK) == mark

    async def _beside(self, key: str) -> Mapping[str, str]:
        """What the store keeps beside an object, by name."""
        raise NotImplementedError

    async def _replace(self, key: str, data: bytes) -> None:
        await self.filesystem._pipe_file(self._at(key), data, **self.writing)

    async def _delete(self, key: str) -> None:
        await self.filesystem._rm_file(self._at(key))

    async def _pages(self, key: str, *, deep: bool) -> AsyncIterator[Keys]:
        begin = f"{self._prefix}{key}/" if key else self._prefix
        cut = len(self._prefix) if deep else len(begin)
        async for page in self._names(begin, deep=deep):
            yield [name[cut:].rstrip("/") if not deep else name[cut:] for name in page]

    def _names(self, begin: str, *, deep: bool) -> AsyncIterator[Keys]:
        """Yield pages of names in the bucket that begin so; unless deep, up to the next slash."""
        raise NotImplementedError


class S3(ObjectStore):
    """Amazon S3 and what speaks its language, through s3fs."""

    resends = True  # aiohttp does, if the request is a PUT
    beside = "Metadata"
    writing = {"chunksize": PIECE}  # noqa: RUF012
    # Read in one piece, or s3fs asks for the size first: one round trip less.
    reading = {"max_concurrency": 1}  # noqa: RUF012

    def _open(self, place: Place) -> Any:
        ours = {
            "connect_timeout": place.deadline,
            "read_timeout": place.deadline,
            "retries": {"total_max_attempts": 1},
            "max_pool_connections": self.concurrency,
            # Access logs tell who asked; and botocore composes its own for each request, a tenth of what that costs.
            "user_agent": f"headrace/{__version__}",
        }
        config = {**ours, **(place.options.get("config_kwargs") or {})}
        options = {"use_listings_cache": False, **place.options, "config_kwargs": config}
        place = Place(place.url, options, place.deadline, place.filesystem)
        return make_filesystem(place, _quick_s3(filesystem_class(place, "'headrace[s3]'")))

    def _get_ready(self) -> None:
        from aiobotocore.session import AioSession

        filesystem = self.filesystem
        with suppress(Exception):  # what is wrong with the user's configuration, the first request tells
            if filesystem.session is None:  # as it would make one itself
                filesystem.session = AioSession(**filesystem.kwargs)
                filesystem._session_is_owned = True
            path = filesystem.session.get_config_variable("data_path")
            filesystem.session.register_component("data_loader", _models(path))

    async def _beside(self, key: str) -> Mapping[str, str]:
        return dict((await self._head(key))["Metadata"])

    async def _size(self, key: str) -> int:
        return int((await self._head(key))["ContentLength"])

    async def _head(self, key: str) -> Any:
        bucket, name, _ = self.filesystem.split_path(self._at(key))
        return await self.filesystem._call_s3("head_object", Bucket=bucket, Key=name)

    async def _names(self, begin: str, *, deep: bool) -> AsyncIterator[Keys]:
        more: dict[str, str] = {} if deep else {"Delimiter": "/"}
        while True:
            page = await self.filesystem._call_s3("list_objects_v2", Bucket=self._bucket, Prefix=begin, **more)
            yield [found["Key"] for found in page.get("Contents", ())] + [
                found["Prefix"] for found in page.get("CommonPrefixes", ())
            ]
            if not page.get("IsTruncated"):
                return
            more["ContinuationToken"] = page["NextContinuationToken"]


@functools.cache
def _models(path: str | None) -> Any:
    """What reads botocore's descriptions of services, and has read that of S3: the better part of a client's making."""
    from botocore.loaders import create_loader
    from botocore.session import Session

    loader, session = create_loader(path), Session()
    session.register_component("data_loader", loader)
    # With a key and a region it looks for neither, so it speaks with nobody.
    session.create_client("s3", "us-east-1", aws_access_key_id="none", aws_secret_access_key="none")
    return loader


@functools.cache
def _quick_s3(cls: Any) -> Any:
    from botocore.handlers import add_expect_header

    class QuickS3(cls):  # type: ignore[misc]
        retries = 1

        async def set_session(self, refresh: bool = False, kwargs: Any = {}) -> Any:  # noqa: B006 - theirs
            before = self._s3
            client = await super().set_session(refresh=refresh, kwargs=kwargs)
            if client is not before:
                # A put would first ask whether it may send the body, and wait for the answer without any timeout.
                client.meta.events.unregister("before-call.s3", add_expect_header)
            return client

    return QuickS3


class GCS(ObjectStore):
    """Google Cloud Storage, through gcsfs."""

    writing = {"chunksize": PIECE}  # noqa: RUF012

    def _open(self, place: Place) -> Any:
        # Without a token, gcsfs tries one way after the other, for 20 seconds, and goes on as nobody if none works.
        ours = {"use_listings_cache": False, "token": "google_default"}
        filesystem_class(place, "'headrace[gcs]'")
        return make_filesystem(place, _quick_gcs(), ours)

    async def _beside(self, key: str) -> Mapping[str, str]:
        return dict((await self.filesystem._get_object(self._at(key))).get("metadata") or {})

    async def _size(self, key: str) -> int:
        return int((await self.filesystem._get_object(self._at(key)))["size"])

    async def _names(self, begin: str, *, deep: bool) -> AsyncIterator[Keys]:
        more: dict[str, str] = {} if deep else {"delimiter": "/"}
        while True:
            try:
                page = await self.filesystem._call("GET", "b/{}/o", self._bucket, prefix=begin, json_out=True, **more)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"the bucket does not exist: {self._bucket}") from error
            yield [found["name"] for found in page.get("items", ())] + page.get("prefixes", [])
            if not page.get("nextPageToken"):
                return
            more["pageToken"] = page["nextPageToken"]


@functools.cache
def _quick_gcs() -> Any:
    # Not the class that gcsfs registers: that one first asks another service, for up to a minute, what kind of bucket
    # it is, to be quicker on kinds that only differ in speed.
    from gcsfs.core import GCSFileSystem

    class QuickGCS(GCSFileSystem):  # type: ignore[misc]
        _request = GCSFileSystem._request.__wrapped__  # without its retries

    return QuickGCS


class Azure(ObjectStore):
    """Azure blobs, through adlfs."""

    resends = True  # as for S3

    def _open(self, place: Place) -> Any:
        cls = filesystem_class(place, "'headrace[azure]'")
        return make_filesystem(place, _quick_azure(cls), {"use_listings_cache": False})

    async def _create(self, key: str, data: bytes, mark: str) -> None:
        # adlfs passes no marks on. What it says by default of each object, is said here, too.
        async with self._blob(key) as blob:
            await blob.upload_blob(data, overwrite=False, metadata={"is_directory": "false", _MARK: mark})

    async def _beside(self, key: str) -> Mapping[str, str]:
        async with self._blob(key) as blob:
            return dict((await blob.get_blob_properties()).metadata or {})

    def _blob(self, key: str) -> Any:
        container, name, _ = self.filesystem.split_path(self._at(key))
        return self.filesystem.service_client.get_blob_client(container, name)

    async def _size(self, key: str) -> int:
        async with self._blob(key) as blob:
            found = await blob.get_blob_properties()
        if _is_folder(found):
            raise FileNotFoundError(key)
        return int(found.size)

    async def _names(self, begin: str, *, deep: bool) -> AsyncIterator[Keys]:
        async with self.filesystem.service_client.get_container_client(self._bucket) as container:
            # adlfs would take a container that is not there for an empty one.
            blobs = (
                container.list_blobs(name_starts_with=begin, include=["metadata"])
                if deep
                else container.walk_blobs(name_starts_with=begin, delimiter="/")
            )
            async for page in blobs.by_page():
                yield [found.name async for found in page if not (deep and _is_folder(found))]


def _is_folder(blob: Any) -> bool:
    """Whether a blob stands for a folder, as accounts with hierarchical names have them."""
    return any(name.lower() == "hdi_isfolder" and value == "true" for name, value in (blob.metadata or {}).items())


@functools.cache
def _quick_azure(cls: Any) -> Any:
    class QuickAzure(cls):  # type: ignore[misc]
        def do_connect(self) -> None:
            super().do_connect()
            self.service_client._config.retry_policy.total_retries = 0  # the first pause would be 15 seconds

    return QuickAzure
