"""A Hugging Face directory's tokenizer and chat template, under GGUF's keys.

Two readings of one file. `tokenizer.huggingface.json` (a key of the GGUF specification) carries tokenizer.json itself:
`Tokenizer` then splits and merges with it, so that ids equal those of the `tokenizers` library. Beside it stands the
translation that GGUF readers know, `tokenizer.ggml.*`: vocabulary, types, merges or scores, special ids. Files are
distrusted: what is wrong becomes a FormatError that names file and key.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from motley.errors import FormatError, UnsupportedError
from motley.formats.metadata import shown
from motley.formats.safetensors import read_json
from motley.formats.vocabulary import END_TEXTS, MAX_TOKENS, PREFIX, TokenType

TOKENIZER, SETTINGS, GENERATION = "tokenizer.json", "tokenizer_config.json", "generation_config.json"
TEMPLATE, TEMPLATE_JSON, TEMPLATES = "chat_template.jinja", "chat_template.json", "additional_chat_templates"
FILES = (TOKENIZER, SETTINGS, GENERATION, TEMPLATE, TEMPLATE_JSON)
WHOLE = "tokenizer.huggingface.json"
_CHAT = "tokenizer.chat_template"
# What pre-tokenizers disagree about: contractions, digits, cases, marks, scripts, runs of spaces and line ends.
DIFFERENCES = (
    "Hello World's WE'LL they'Ve I'm don't 1234567 12 3 x=y+1;\n\n  \n \t tabs   end.  über Élan HELLOworld camelCase "
    "ÀÉ 你好世界 カタカナ 한국어 हिन्दी ١٢٣ ½ 😀😀!!!?? \r\n\r\n a\u0301b $100 __under_score #tag @me 'quoted' 3.14 "
    '...wait  \u3000wide https://a.b/c?d=1 {"k": [1, 2]}  \n'
)


def tokenizer_metadata(folder: Path, config: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """Keys of tokenizer and chat template; without tokenizer.json none: the model then takes ids only."""
    settings = _optional(folder / SETTINGS)
    templates = dict(_templates(folder, settings))
    if not (folder / TOKENIZER).is_file():
        return templates
    whole = read_json(folder / TOKENIZER)
    model = _model(whole)
    texts, types = _tokens(whole, model, vocab_size)
    ids = {text: id for id, text in enumerate(texts)}
    found: dict[str, Any] = {PREFIX + "model": model["kind"], PREFIX + "tokens": texts, PREFIX + "token_type": types}
    if model["kind"] == "gpt2":
        found[PREFIX + "merges"] = [" ".join(part.replace(" ", "Ġ") for part in pair) for pair in model["merges"]]
    else:
        found[PREFIX + "scores"] = _scores(texts, model["merges"])
        found[PREFIX + "add_space_prefix"] = adds_space(whole)
    special = _special(settings, _optional(folder / GENERATION), config, ids)
    if (unknown := ids.get(str(model["unk_token"]))) is not None:
        special["unknown"] = unknown
    found |= {f"{PREFIX}{name}_token_id": id for name, id in special.items()}
    found[PREFIX + "add_bos_token"] = _adds_bos(whole, settings, texts, special.get("bos"))
    found[WHOLE] = json.dumps(whole, ensure_ascii=False)
    return found | templates


def with_pre_tokenizer(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """`tokenizer.ggml.pre`, for a file that is read without tokenizer.json: the first of Motley's pre-tokenizers that
    cuts a text full of their differences as tokenizer.json does. UnsupportedError where none does."""
    from motley.formats.pretokenizers import PRE_TOKENIZERS, known_pre_tokenizers

    if metadata[PREFIX + "model"] != "gpt2":
        return {PREFIX + "pre": "default"}
    whole = json.loads(metadata[WHOLE])
    library = engine(whole)
    cut = library.pre_tokenizer.pre_tokenize_str(DIFFERENCES) if library.pre_tokenizer else None
    ignore_merges = whole["model"].get("ignore_merges") is True
    nfc = any(part.get("type") == "NFC" for part in parts(whole, "normalizer"))
    for name, pre in PRE_TOKENIZERS.items():
        if (pre.ignore_merges, pre.nfc) == (ignore_merges, nfc) and pre.build().pre_tokenize_str(DIFFERENCES) == cut:
            return {PREFIX + "pre": name}
    raise UnsupportedError(
        f"{TOKENIZER} cuts text in a way that has no name among GGUF's pre-tokenizers that Motley knows "
        f"({known_pre_tokenizers()}): a GGUF file would give other tokens; run the folder itself"
    )


def engine(whole: Mapping[str, Any]) -> Any:
    """`tokenizers`' own tokenizer of the file."""
    from tokenizers import Tokenizer as Engine

    try:
        return Engine.from_str(json.dumps(whole))
    except Exception as error:  # the library raises nothing narrower
        raise FormatError(f"{TOKENIZER} cannot be used: {str(error)[:200]}; download the file again") from None


def is_byte_level(whole: Mapping[str, Any]) -> bool:
    """Whether words are spelled in GPT-2's 256 byte characters."""
    return any(part.get("type") == "ByteLevel" for key in ("pre_tokenizer", "decoder") for part in parts(whole, key))


def adds_space(whole: Mapping[str, Any]) -> bool:
    """Whether a text gets a space in front: by a normaliser that prepends it, or by Metaspace."""
    if any(part.get("type") == "Prepend" for part in parts(whole, "normalizer")):
        return True
    spaces = [part for part in parts(whole, "pre_tokenizer") if part.get("type") == "Metaspace"]
    return any(part.get("prepend_scheme", "always") != "never" for part in spaces)


def parts(whole: Mapping[str, Any], key: str) -> Iterator[dict[str, Any]]:
    """The steps of a normaliser, pre-tokenizer, post-processor or decoder, those of a Sequence one by one."""
    step = whole.get(key)
    if not isinstance(step, dict):
        return
    inner = [step[name] for name in ("normalizers", "pretokenizers", "decoders", "processors") if name in step]
    if not inner:
        yield step
    for each in inner[0] if inner and isinstance(inner[0], list) else ():
        if isinstance(each, dict):
            yield each


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _wrong(key: str, value: object, wanted: str) -> FormatError:
    return FormatError(f"{TOKENIZER}: {key} must be {wanted}, not {shown(value)}; download the file again")


def _model(whole: Mapping[str, Any]) -> dict[str, Any]:
    """vocab {text: id}, merges [(left, right)], unk_token, and GGUF's name for the kind."""
    model = whole.get("model")
    if not isinstance(model, dict):
        raise _wrong("model", model, "an object")
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind != "BPE":
        raise UnsupportedError(f"{TOKENIZER}: a model of type {shown(kind)} is not supported: Motley knows BPE")
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not all(type(id) is int and 0 <= id < MAX_TOKENS for id in vocab.values()):
        raise _wrong("model.vocab", vocab, "texts with ids")
    if not isinstance(merges, list):
        raise _wrong("model.merges", merges, "a list")
    pairs = [tuple(pair.split(" ", 1)) if isinstance(pair, str) else pair for pair in merges]
    for i, pair in enumerate(pairs):
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise _wrong(f"model.merges[{i}]", merges[i], "two texts")
    kind = "gpt2" if is_byte_level(whole) else "llama"
    return {"vocab": vocab, "merges": pairs, "unk_token": model.get("unk_token"), "kind": kind}


def _tokens(whole: Mapping[str, Any], model: Mapping[str, Any], vocab_size: int) -> tuple[list[str], list[int]]:
    """Texts and types by id, as many as the embedding has rows."""
    texts: dict[int, str] = {id: text for text, id in model["vocab"].items()}
    types: dict[int, int] = {}
    if model["kind"] == "llama":
        byte_texts = {f"<0x{byte:02X}>" for byte in range(256)}
        types |= {id: TokenType.BYTE for id, text in texts.items() if text in byte_texts}
    for token in whole.get("added_tokens") or []:
        id, text = (token.get("id"), token.get("content")) if isinstance(token, dict) else (None, None)
        if type(id) is not int or not 0 <= id < MAX_TOKENS or not isinstance(text, str):
            raise _wrong("added_tokens", token, "objects with an id and a content")
        texts[id] = text
        types[id] = TokenType.CONTROL if token.get("special") else TokenType.USER_DEFINED
    if (unknown := model["vocab"].get(model["unk_token"])) is not None:
        types[unknown] = TokenType.UNKNOWN
    if max(texts, default=-1) >= vocab_size:
        id = max(texts)
        raise FormatError(
            f"{TOKENIZER}: token {shown(texts[id])} has the id {id}, but the model's vocabulary has {vocab_size}: "
            "the files belong to different models"
        )
    whole_texts = [texts.get(id, f"[PAD{id}]") for id in range(vocab_size)]
    kinds = [types.get(id, TokenType.NORMAL if id in texts else TokenType.UNUSED) for id in range(vocab_size)]
    return whole_texts, [int(kind) for kind in kinds]


def _scores(texts: list[str], merges: list[tuple[str, str]]) -> list[float]:
    """What the first merge makes scores highest: SentencePiece's rule then merges in the same order."""
    rank: dict[str, int] = {}
    for left, right in merges:
        rank.setdefault(left + right, len(rank))
    return [float(-rank[text]) if text in rank else float(-len(rank)) for text in texts]


def _special(
    settings: Mapping[str, Any], generation: Mapping[str, Any], config: Mapping[str, Any], ids: Mapping[str, int]
) -> dict[str, int]:
    """Ids by GGUF's names. Ends that every reader knows by their text need no name; of others there may be three."""
    found: dict[str, int] = {}
    for name, key in (("bos", "bos"), ("padding", "pad")):
        candidates = [*_named(settings, f"{key}_token", ids), *_numbered(generation, config, f"{key}_token_id", ids)]
        if candidates:
            found[name] = candidates[0]
    ends = [*_named(settings, "eos_token", ids), *_numbered(generation, config, "eos_token_id", ids)]
    known = {ids[text] for text in END_TEXTS if text in ids}
    distinct = [end for i, end in enumerate(dict.fromkeys(ends)) if i == 0 or end not in known]
    if len(distinct) > 3:
        raise UnsupportedError(f"{GENERATION}: eos_token_id has {len(distinct)} ids, and GGUF has names for three")
    return found | dict(zip(("eos", "eot", "eom"), distinct))


def _named(settings: Mapping[str, Any], key: str, ids: Mapping[str, int]) -> list[int]:
    token = settings.get(key)
    text = token.get("content") if isinstance(token, dict) else token
    return [ids[text]] if isinstance(text, str) and text in ids else []


def _numbered(
    generation: Mapping[str, Any], config: Mapping[str, Any], key: str, ids: Mapping[str, int]
) -> Iterator[int]:
    for source, name in ((generation, GENERATION), (config, "config.json")):
        value = source.get(key)
        for id in value if isinstance(value, list) else [] if value is None else [value]:
            if type(id) is not int or not 0 <= id < len(ids):
                raise FormatError(f"{name}: {key} is {shown(id)}, outside the vocabulary of {len(ids)} tokens")
            yield id


def _adds_bos(whole: Mapping[str, Any], settings: Mapping[str, Any], texts: list[str], bos: int | None) -> bool:
    """As tokenizer.json's template for one text begins; without a template, as tokenizer_config.json says."""
    if bos is None:
        return False
    templates = [part for part in parts(whole, "post_processor") if part.get("type") == "TemplateProcessing"]
    for template in templates:
        single = template.get("single")
        first = single[0] if isinstance(single, list) and single else None
        special = first.get("SpecialToken") if isinstance(first, dict) else None
        return isinstance(special, dict) and special.get("id") == texts[bos]
    return settings.get("add_bos_token") is True


# --- chat templates


def _templates(folder: Path, settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The file of that name goes before what older checkpoints have in tokenizer_config.json."""
    named: dict[str, str] = {}
    for source, name in ((settings, SETTINGS), (_optional(folder / TEMPLATE_JSON), TEMPLATE_JSON)):
        given = source.get("chat_template")
        listed = given if isinstance(given, list) else [] if given is None else [{"name": "default", "template": given}]
        for each in listed:
            if not (isinstance(each, dict) and all(isinstance(each.get(key), str) for key in ("name", "template"))):
                raise FormatError(f"{folder / name}: chat_template must be a text, or objects with name and template")
            named[each["name"]] = each["template"]
    files = [("default", folder / TEMPLATE), *((path.stem, path) for path in (folder / TEMPLATES).glob("*.jinja"))]
    for name, path in files:
        if path.is_file():
            named[name] = _text(path)
    if "default" in named:
        yield _CHAT, named.pop("default")
    if named:
        yield _CHAT + "s", sorted(named)
        yield from ((f"{_CHAT}.{name}", source) for name, source in named.items())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"{path}: is not UTF-8 text; download the file again") from None
