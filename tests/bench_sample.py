"""A realistic result, made by hand: a small model on two unequal local nodes. For tests and for looking at the page."""

import numpy as np
from msgspec import structs

from motley.bench import records
from motley.bench import result as r
from motley.bench.load import LoadResult, Objectives, Run, Seen
from motley.bench.served import Client, ServedResult, Server, served_test
from motley.lab.lab import Device, Lab, Link
from motley.lab.placement import LayerPlacement, Placement
from motley.predict.workload import Workload

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
        tokens_per_s=records.Spread.of((tok_s * speed * rng.normal(1, 0.03, 5)).tolist()),
        ms_per_step=ms,
        predicted_tokens_per_s=records.Interval(p10=p50 * 0.82, p50=float(p50), p90=p50 * 1.2),
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
            tokens_per_s=records.Spread.of(b.tolist()),
            motley_tokens_per_s=records.Spread.of(a.tolist()),
            ratio=records.Spread.of((a / b).tolist()),
        )

    rows = (("pp512", False, 5400.0, 6100.0), ("pp512", True, 3900.0, 6100.0))
    rows += (("tg64", True, 870.0, 910.0), ("tg64", False, 850.0, 905.0))
    return tuple(one(*row) for row in rows)


def sample_load(concurrency: int = 4, prompt: int = 128, output: int = 64, runs: int = 5, seed: int = 0) -> LoadResult:
    """Slower for each as there are more, faster together."""
    rng = np.random.default_rng(seed + concurrency)
    found = []
    for _ in range(runs):
        seen = []
        for _ in range(2 * concurrency):
            first = 0.03 * concurrency**0.9 * rng.uniform(0.9, 1.4)
            gaps = 0.0012 * concurrency**0.6 * rng.gamma(20, 1 / 20, output - 1)
            arrivals = (first + np.concatenate([[0.0], np.cumsum(gaps)])).tolist()
            seen.append(Seen(0.0, arrivals, prompt, output))
        found.append(Run(2 * max(s.arrivals[-1] for s in seen), seen, {}))
    return LoadResult.of(
        found,
        prompt_tokens=prompt,
        output_tokens=output,
        concurrency=concurrency,
        counted_by="engine",
        objectives=Objectives(ttft_ms=500, tpot_ms=50),
    )


def _predicted(load: LoadResult) -> LoadResult:
    p50 = 1.1 * load.output_tokens_per_s.median
    return structs.replace(load, predicted_tokens_per_s=r.Interval(p10=0.8 * p50, p50=p50, p90=1.3 * p50))


def sample_suite() -> r.Result:
    """With everything that a suite adds: depths, batches with their experts, loads, clocks, energy, a skipped test."""
    rng = np.random.default_rng(3)
    tests = []
    rows = [("pp", n, 0, 1, 4000 + 900 * np.log2(n / 32), 0.03 * n) for n in (32, 128, 512, 2048)]
    rows += [("tg", 64, depth, 1, 910 / (1 + depth / 4000), 1.1) for depth in (0, 512, 2048, 8192)]
    rows += [("tg", 32, 128, batch, 890 * batch**0.62, 1.1 * batch**0.38) for batch in (1, 2, 4, 8, 16)]
    for kind, n, depth, batch, speed, ms in rows:
        test = _test(rng, f"{kind}{n}", depth, batch, float(speed), 1.1 * float(speed), float(ms), 1.0)
        even = EXPERTS * (1 - (1 - USED / EXPERTS) ** batch)
        seen = r.Activated(measured=USED + 0.8 * (even - USED), uniform=even, steps=16) if kind == "tg" else None
        tests.append(
            structs.replace(
                test,
                clock=r.Clock(before=3.4e6, after=3.39e6, throttled=0),
                energy=r.Energy(joules_per_token=0.05 / batch, watts=44.0, source="RAPL package-0"),
                experts_activated=seen,
                sparse_bandwidth_utilisation=0.12 if seen else None,
            )
        )
    return structs.replace(
        sample_result(),
        schema=2,
        suite="standard",
        sessions=("2026-11-29T08:00:00Z",),
        command="motley bench --suite standard",
        results=tuple(tests),
        loads=tuple(_predicted(sample_load(c)) for c in (1, 2, 4, 8, 16)),
        skipped=(r.Skipped(test="pp8192", why="needs 8192 positions, motley-tales-10m was trained for 1024"),),
    )


def sample_served() -> ServedResult:
    """A server, as `motley bench --endpoint` sees it."""
    units = [Workload("prefill", 128), Workload("prefill", 512), Workload("decode", 64), Workload("decode", 64, 512)]
    tests = []
    for i, unit in enumerate(units):
        seen = [
            Seen(0.0, [unit.tokens / 4000 + 0.001 * i + 0.011 * k for k in range(1 if unit.kind == "prefill" else 64)])
            for i in range(5)
        ]
        for one in seen:
            one.prompt_tokens, one.output_tokens = max(unit.depth, unit.tokens), len(one.arrivals)
        runs = [Run(one.arrivals[-1], [one], {}) for one in seen]
        load = LoadResult.of(
            runs, prompt_tokens=unit.tokens, output_tokens=len(seen[0].arrivals), concurrency=1, counted_by="usage"
        )
        tests.append(served_test(unit, load))
    return ServedResult(
        kind="endpoint",
        motley="0.1.0",
        date="2026-11-29T08:00:00Z",
        command="motley bench --endpoint http://127.0.0.1:8080 --suite standard",
        commit="e9710f1a2b3c",
        server=Server(
            url="http://127.0.0.1:8080/v1",
            model="olmoe-1b-7b",
            api="completions",
            software="llama.cpp",
            extras=("ignore_eos", "cache_prompt"),
            prompts_counted_by="usage",
        ),
        client=Client(cpu="Intel(R) Xeon(R) Platinum 8488C", cores=2, os="Linux 6.1.0 x86_64", python="3.11.7"),
        suite="standard",
        sessions=("2026-11-29T08:00:00Z",),
        results=tuple(test for test in tests if test),
        loads=tuple(structs.replace(sample_load(c), counted_by="usage", client_busy=0.02) for c in (1, 2, 4, 8)),
        skipped=(r.Skipped(test="pp512@d2048", why="a server's cache can't be filled to a depth beforehand"),),
    )
