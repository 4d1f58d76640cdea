"""Words of published tables turned into the catalogue's: engines, links, splits, numbers of devices.

Tables are written by people: each rule here is a spelling that occurs. What matches no rule is None, and the row is
then refused or taken at its most usual meaning, which `question` decides.
"""

import re

# First match wins, in lower case. ik_llama.cpp before llama.cpp; what says nothing is llama.cpp's kind, the commonest.
_ENGINES = (
    ("ik_llama", "ik_llama.cpp"),
    ("ktransformers", "ktransformers"),
    ("distributed-llama", "distributed-llama"),
    ("exo", "exo"),
    ("ds4", "ds4"),
    ("tensorrt", "tensorrt-llm"),
    ("trtllm", "tensorrt-llm"),
    ("sglang", "sglang"),
    ("vllm", "vllm"),
    ("mlx", "mlx"),
    ("ollama", "ollama"),
    ("llama", "llama.cpp"),
    ("lm studio", "llama.cpp"),
    ("tinygrad", "tinygrad"),
)

_LINKS = (
    (r"nvlink\s*5|nvl72|gb[23]00", "nvlink5"),
    (r"pcie/nvlink", "pcie4x16"),
    (r"50 ?gb", "100gbe-x4"),
    (r"nvlink|nvswitch", "nvlink4"),
    (r"pcie 5.*p2p", "pcie5x16-p2p"),
    (r"pcie 3.*x16", "pcie3x16"),
    (r"pcie.*x8", "pcie4x8"),
    (r"pcie.*no p2p|wsl", "pcie5x16"),
    (r"pcie 5", "pcie5x16"),
    (r"pcie|intra-node|one host|none", "pcie4x16"),
    (r"(thunderbolt|tb).*rdma|jaccl", "tb5-rdma"),
    (r"thunderbolt [34]|tb[34]", "tb4"),
    (r"thunderbolt|tb5", "tb5-tcp"),
    (r"2\.5\s?gbe?.*roce", "2.5gbe-softroce"),
    (r"25\s?gb.*(roce|rdma)", "25gbe-roce"),
    (r"100\s?gbe.*(roce|rdma)", "100gbe-roce"),
    (r"(200|connectx-7|cx7|nccl/rdma|roce)", "cx7-200g"),
    (r"infiniband|\bib\b|datacentre", "ib-ndr"),
    (r"100\s?gbe", "100gbe"),
    (r"25\s?gb", "25gbe"),
    (r"10\s?gbe?", "10gbe"),
    (r"2\.5\s?gbe?", "2.5gbe"),
    (r"\b5\s?gbe?", "5gbe"),
    (r"\b1\s?gbe?|ethernet", "1gbe"),
    (r"wi-?fi", "wifi"),
)


def engine(text: str) -> str | None:
    """A profile's name."""
    text = text.lower()
    return next((name for word, name in _ENGINES if word in text), None)


def link(text: str) -> str | None:
    """A link of the catalogue."""
    text = text.lower()
    return next((name for pattern, name in _LINKS if re.search(pattern, text)), None)


def split(parallelism: str, engine: str) -> str | None:
    """`one` place, `layers`, `tensor`, `rpc` (layers over a network) or `hybrid` (experts on the processor)."""
    text = parallelism.lower()
    if "cpu expert" in text or "hybrid" in text or "cpu-moe" in text:
        return "hybrid"
    if "rpc" in text or "rpc" in engine.lower():
        return "rpc"
    if "uneven" in text:
        return None
    if "pipeline" in text and "tp" not in text:
        return "layers"
    if re.search(r"tensor|tp=?\s?\d|tp\d|ep\d|dp\d", text) and not re.search(r"tp=?1\b", text):
        return "tensor"
    return "one"


def count(text: str) -> int | None:
    """A whole number, or None for `1-4`, `server` and the like."""
    text = text.strip()
    if not re.fullmatch(r"\d+(\.0+)?", text):
        return None
    return int(float(text))


def layers_on_processor(*texts: str) -> tuple[int, bool] | None:
    """How many layers' experts, and whether they are the first ones: `--n-cpu-moe 36` and `ncmoe 36` mean the first,
    `last 14 layers of experts on CPU` says otherwise."""
    for text in texts:
        if found := re.search(r"n-?(?:cpu|c)?-?moe\s*(\d+)", text.lower()):
            return int(found[1]), True
        if found := re.search(r"last (\d+) layers of experts on cpu", text.lower()):
            return int(found[1]), False
    return None


def layers_on_card(parallelism: str) -> int | None:
    """`gpuLayers=28`"""
    found = re.search(r"gpuLayers=(\d+)", parallelism)
    return int(found[1]) if found else None


def micro_batch(notes: str) -> int | None:
    """`ubatch=2048`: tokens of a prompt in one step."""
    found = re.search(r"ubatch=(\d+)", notes)
    return int(found[1]) if found else None


def terms(hardware: str) -> list[tuple[int, str]]:
    """`1x RTX 3090 + CPU EPYC 7543` -> [(1, "RTX 3090"), (1, "CPU EPYC 7543")]; `L4 24GB * 2` -> [(2, "L4 24GB")]"""
    found = []
    for term in hardware.split(" + "):
        term = re.sub(r"\(.*?\)", "", term).strip()
        if match := re.fullmatch(r"(\d+)\s*x\s*(.+)", term):
            found.append((int(match[1]), match[2].strip()))
        elif match := re.fullmatch(r"(.+?)\s*\*\s*(\d+)", term):
            found.append((int(match[2]), match[1].strip()))
        elif term:
            found.append((1, term))
    return found


def backend(text: str) -> str:
    """What drives the device: `vulkan`, `rocm`, `cuda`, `metal`, `cpu`..., or nothing; `hip` is ROCm as of 2025. With
    `+blaslt` where that library multiplies, `-nofa` where flash attention is said to be off."""
    text = text.lower()
    plain = re.sub(r"hipblaslt=\d?", "", text)
    name = next((k for k, marks in _BACKENDS.items() if any(mark in plain for mark in marks)), "")
    return name + "+blaslt" * ("hipblaslt=1" in text) + "-nofa" * ("fa=0" in text)


_BACKENDS = {
    "rocwmma": ("rocwmma",),
    "hip": ("llama.cpp-hip",),
    "rocm": ("hip", "rocm"),
    "amdvlk": ("amdvlk",),
    "vulkan": ("vulkan",),
    "cuda": ("cuda",),
    "metal": ("metal",),
    "cpu": ("cpu",),
}
