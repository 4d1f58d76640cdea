"""A realistic result, made by hand: a small model on two unequal local nodes. For tests and for looking at the page."""

import numpy as np

from motley.bench import result as r
from motley.lab.lab import Device, Lab, Link
from motley.lab.placement import LayerPlacement, Placement

LAYERS, EXPERTS, USED = 8, 32, 4


def sample_result(seed: int = 0, speed: float = 1.0, peer: bool = True) -> r.Result:
    """`speed` scales every measured speed; `seed` moves the noise."""
    rng = np.random.default_rng(seed)
    return r.Result(
        motley="0.1.0",
        date=f"2026-11-2{seed % 9 + 1}T02:10:00Z",
        command="motley bench --pp 128,512 --tg 64 --peer llama.cpp --json out.json",
        commit="e9710f1a2b3c",
        model=sample_model(),
        machine=r.Machine(
            read_gb_s=23.4,
            int8_gops=1290.0,
            threads=3,
            cpu="Intel(R) Xeon(R) Platinum 8488C",
            cores=2,
            memory_bytes=25_276_510_208,
            os="Linux 6.1.0 x86_64",
            python="3.11.7",
        ),
        lab=sample_lab(),
        placement=sample_placement(),
        reasons=("attention stays on small: it reads twice as fast", "its 6 MB hold attention and 112 of 256 experts"),
        results=sample_tests(rng, speed),
        check=r.Check(
            reference="one device",
            max_abs_logit_diff=1.9e-6,
            max_rel_logit_diff=1.1e-7,
            greedy_tokens_equal=128,
            greedy_tokens_compared=128,
            logit_rows_compared=128,
        ),
        routes=sample_routes(rng),
        exchanges=(
            r.Exchange(
                a="small",
                b="big",
                transport="tcp",
                count=2560,
                per_token=8.0,
                us_per_exchange=22.8,
                round_us=61.2,
                work_us=38.4,
                rtt_us=16.8,
            ),
        ),
        peers=sample_peers(rng) if peer else (),
        peak_memory_bytes={"small": 61_000_000, "big": 58_000_000},
    )


def sample_model() -> r.Model:
    return r.Model(
        name="motley-tales-10m",
        architecture="qwen3moe",
        quant="q8_0",
        n_layers=LAYERS,
        d_model=256,
        n_heads=8,
        n_kv_heads=4,
        head_dim=32,
        n_experts=EXPERTS,
        n_experts_used=USED,
        d_expert=64,
        vocab_size=4096,
        context=1024,
        n_params=10_300_000,
        n_bytes=9_400_000,
        file="tales.gguf",
        file_hash="sha256:6f1e",
    )


def sample_lab() -> Lab:
    return Lab(
        devices=(
            Device("small", "a", "cpu", 6_000_000, 2, 23.4, 1290, 410, 1.4),
            Device("big", "b", "cpu", 64_000_000, 1, 14.1, 640, 190, 1.6),
        ),
        links=(Link("small", "big", "tcp", 16.8, 3.1),),
    )


def sample_placement() -> Placement:
    """The first 12 experts of each layer at home, the last two layers' home on the other device."""

    def layer(i: int) -> LayerPlacement:
        home, other = ("small", "big") if i < LAYERS - 2 else ("big", "small")
        return LayerPlacement(home, tuple(home if (e * 7 + i) % EXPERTS < 12 else other for e in range(EXPERTS)))

    return Placement(tuple(layer(i) for i in range(LAYERS)))


def sample_tests(rng: np.random.Generator, speed: float) -> tuple[r.TestResult, ...]:
    rows = (("pp128", 0, 1, 5200, 4700, 24.6), ("pp512", 0, 1, 6100, 7000, 84.0), ("tg64", 0, 1, 910, 1010, 1.1))
    rows += (("tg64", 512, 1, 800, 840, 1.25), ("tg64", 0, 4, 1900, 1500, 2.1))
    return tuple(_test(rng, *row, speed=speed) for row in rows)


def _test(
    rng: np.random.Generator, test: str, depth: int, batch: int, tok_s: float, p50: float, ms: float, speed: float
) -> r.TestResult:
    shares = np.array([0.31, 0.05, 0.33, 0.17, 0.08, 0.05, 0.01]) if test.startswith("tg") else np.full(7, 1 / 7)
    single = test.startswith("tg") and batch == 1
    return r.TestResult(
        test=test,
        depth=depth,
        batch=batch,
        tokens_per_s=r.Spread.of((tok_s * speed * rng.normal(1, 0.03, 5)).tolist()),
        ms_per_step=ms,
        predicted_tokens_per_s=r.Interval(p10=p50 * 0.82, p50=float(p50), p90=p50 * 1.2),
        active_bytes_per_token=2_950_000 + depth * 8192,
        bandwidth_fraction=2.95e6 * tok_s * speed / 23.4e9 if single else None,
        read_gb_s=23.4,
        time=r.TimeSplit(**dict(zip(r.TimeSplit.__struct_fields__, (shares * ms).tolist()))),
    )


def sample_routes(rng: np.random.Generator) -> tuple[tuple[int, ...], ...]:
    """Uneven popularity, as trained routers have it."""
    weights = rng.dirichlet(np.full(EXPERTS, 0.8), LAYERS)
    return tuple(tuple(int(n) for n in rng.multinomial(4000 * USED, row)) for row in weights)


def sample_peers(rng: np.random.Generator) -> tuple[r.PeerResult, ...]:
    def one(test: str, repack: bool, theirs: float, ours: float) -> r.PeerResult:
        a, b = ours * rng.normal(1, 0.03, 5), theirs * rng.normal(1, 0.03, 5)
        return r.PeerResult(
            peer="llama.cpp",
            version="0.3.36",
            settings={"repack": repack},
            best=repack == (test == "tg64"),
            test=test,
            depth=0,
            batch=1,
            threads=3,
            tokens_per_s=r.Spread.of(b.tolist()),
            motley_tokens_per_s=r.Spread.of(a.tolist()),
            ratio=r.Spread.of((a / b).tolist()),
        )

    rows = (("pp512", False, 5400.0, 6100.0), ("pp512", True, 3900.0, 6100.0))
    rows += (("tg64", True, 870.0, 910.0), ("tg64", False, 850.0, 905.0))
    return tuple(one(*row) for row in rows)
