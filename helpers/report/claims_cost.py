"""Claims about what pruning saves: bytes on disk, MACs, memory, time, energy."""

from helpers.report import assignment
from helpers.report.evidence import STRUCTURED, Missing, Rows, name, smallest_file, timed_at_best, unequal_kernels, value
from helpers.report.statistics import signed
from helpers.report.tables import number_text
from helpers.report.verdicts import REFUTED, SUPPORTED, UNDECIDED, Claim, Judgement

SIZE, COST = "Size on disk", "MACs, memory, time and energy"
UNSTRUCTURED = ("layerwise_magnitude", "grasp_iterative")
SAME = 0.05  # ratios of times and memory closer to 1 than this are no difference


def _verdict(supported: bool, refuted: bool) -> str:
    return SUPPORTED if supported else REFUTED if refuted else UNDECIDED


def _mib(mib: float) -> str:
    return f"{number_text(mib, 2)} MiB"


def _pct(share: float) -> str:
    return f"{number_text(100 * share, 1)} %"


# Size on disk -----------------------------------------------------------------------------------------------------


def _all_shrink(rows: Rows, dataset: str) -> Judgement:
    dense = value(rows.one(dataset, "dense"), "size_mib")
    files = {m: smallest_file(rows.one(dataset, m)) for m in (*UNSTRUCTURED, STRUCTURED)}
    listed = ", ".join(f"{name(m)} {_mib(f.mib)} ({f.format})" for m, f in files.items())
    smaller = [file.mib < dense for file in files.values()]
    return Judgement(_verdict(all(smaller), not all(smaller)), f"Dense {_mib(dense)}; {listed}.")


def _zeros_alone(rows: Rows, dataset: str) -> Judgement:
    dense, row = value(rows.one(dataset, "dense"), "size_mib"), rows.one(dataset, UNSTRUCTURED[0])
    plain = value(row, "size_dense_mib")
    evidence = f"The pruned network saved plainly takes {_mib(plain)}, the dense one {_mib(dense)}."
    return Judgement(_verdict(plain > 0.99 * dense, plain <= 0.99 * dense), evidence)


def _structured_smallest(rows: Rows, dataset: str) -> Judgement:
    structured = rows.seeds(dataset, STRUCTURED)
    own = value(structured[0], "size_mib")
    mains = {m: rows.one(dataset, m) for m in UNSTRUCTURED}
    listed = "; ".join(
        f"{name(m)} {_mib(smallest_file(row).mib)} as {smallest_file(row).format}, {_mib(value(row, 'size_coo_mib'))} as COO"
        for m, row in mains.items()
    )
    smallest = min(smallest_file(row).mib for row in mains.values())
    evidence = f"{name(STRUCTURED)} {_mib(own)}; {listed}"
    # the write-up's two stop at 80 %: a sparser one is as good an answer if it is no less accurate
    rivals = [r for r in rows.find(dataset, UNSTRUCTURED[0], "curve_finetuned") if smallest_file(r).mib < own]
    for rival in rivals:
        compared = rows.compare([rival], structured)
        evidence += f"; at {number_text(rival['sparsity_pct'], 2)} % sparsity {_mib(smallest_file(rival).mib)}, "
        evidence += f"{signed(compared.difference)} points of top-1 against it"
        if not compared.beyond_noise or compared.difference > 0:
            return Judgement(REFUTED, f"{evidence}.")
    return Judgement(_verdict(own < smallest, own > smallest), f"{evidence}.")


def _coo_overhead(rows: Rows, dataset: str) -> Judgement:
    dense, row = value(rows.one(dataset, "dense"), "size_mib"), rows.one(dataset, UNSTRUCTURED[0])
    density, coo = 1 - value(row, "sparsity_pct") / 100, value(row, "size_coo_mib") / dense
    evidence = f"{_pct(density)} of the weights are left, the COO file is {_pct(coo)} of the dense one"
    for column, label in (("size_csr_mib", "CSR"), ("size_bitmask_mib", "a bitmask with fp32 values")):
        if row.get(column) is not None:
            evidence += f", {label} {_pct(row[column] / dense)}"
    if row.get("entropy_bound_mib") is not None:
        evidence += f"; no exact file of masks at random places goes below {_pct(row['entropy_bound_mib'] / dense)}"
    evidence += ". The values alone are proportional; a bitmask adds one bit for every weight, COO an index for every value"
    return Judgement(_verdict(coo > 1.25 * density, coo <= 1.25 * density), evidence + ".")


# Work, memory, time, energy ---------------------------------------------------------------------------------------


def _unstructured_keeps_macs(rows: Rows, dataset: str) -> Judgement:
    dense, row = rows.one(dataset, "dense"), rows.one(dataset, UNSTRUCTURED[0])
    macs = value(row, "macs") / value(dense, "macs")
    memory = value(row, "peak_memory_mib") / value(dense, "peak_memory_mib")
    evidence = f"Run as a dense network: {_pct(macs)} of the dense MACs, {_pct(memory)} of the peak memory"
    if row.get("effective_macs") is not None:
        share = row["effective_macs"] / value(dense, "effective_macs")
        evidence += f"; only {_pct(share)} of the MACs touch a weight that is left"
    same = abs(macs - 1) < SAME and abs(memory - 1) < SAME
    return Judgement(_verdict(same, not same), evidence + ".")


def _dense_kernels(rows: Rows, dataset: str) -> Judgement:
    dense, parts, faster = rows.one(dataset, "dense"), [], False
    for column, batch in (("latency_ms", 1), ("latency_batch128_ms", 128)):
        base, unpruned = rows.read(dense, column), rows.equal_work(dense, column)
        pruned = {m: value(rows.one(dataset, m), column) for m in UNSTRUCTURED}
        faster |= min(pruned.values()) < (1 - SAME) * min(unpruned)
        listed = ", ".join(f"{name(m)} {number_text(time / base, 2)}" for m, time in pruned.items())
        spread = " to ".join(number_text(end(unpruned) / base, 2) for end in (min, max))
        parts.append(f"at batch {batch} {listed}, {len(unpruned)} unpruned networks {spread}")
    return Judgement(_verdict(not faster, faster), f"Times the median time of unpruned networks: {'; '.join(parts)}.")


def _channels_faster(rows: Rows, dataset: str) -> Judgement:
    structured = rows.seeds(dataset, STRUCTURED)
    own = rows.gain(structured[0], "latency")
    evidence = f"{name(STRUCTURED)} runs {number_text(own, 2)} times as fast as dense at batch 128"
    verdict = SUPPORTED
    main = rows.shown(dataset, UNSTRUCTURED[0])
    for rival in (*([main] if main else ()), *rows.find(dataset, UNSTRUCTURED[0], "curve_finetuned")):
        try:
            theirs = rows.gain(rival, "latency")
        except Missing:
            continue
        compared = rows.compare(rows.trainings(rival), structured)
        if theirs >= (1 - SAME) * own and not (compared.beyond_noise and compared.difference < 0):
            verdict = REFUTED
        evidence += f"; unstructured at {number_text(rival['sparsity_pct'], 2)} % {number_text(theirs, 2)} times"
        evidence += f", {signed(compared.difference)} points of top-1 against it"
    if verdict == REFUTED and not timed_at_best(structured[0]):
        return Judgement(UNDECIDED, f"{evidence}. {unequal_kernels()}")
    return Judgement(verdict, f"{evidence}.")


def _reduction(column: str, at_least: float, text: str):
    """A judge of "structured pruning cuts `column` by so much"."""

    def judge(rows: Rows, dataset: str) -> Judgement:
        small, dense = rows.one(dataset, STRUCTURED), rows.one(dataset, "dense")
        cut = 1 - rows.read(small, column) / rows.read(dense, column)
        theirs = [assignment.reported(_theirs(dataset), m, column) for m in ("dense", STRUCTURED)]
        claimed = f" (write-up: {_pct(1 - theirs[1] / theirs[0])})" if all(theirs) else ""
        evidence = f"{text.format(cut=_pct(cut))}{claimed}."
        if column == "peak_memory_mib":
            for other in rows.find(dataset, STRUCTURED, "widths=he"):
                share = _pct(1 - rows.read(other, column) / rows.read(dense, column))
                evidence = evidence[:-1] + f"; {share} with the same MACs at the widths of He et al. (2017)."
        if column == "latency_ms":
            batch = 1 - rows.cost(small, "latency") / rows.cost(dense, "latency")
            evidence = evidence[:-1] + f"; {_pct(batch)} at batch 128."
        return Judgement(_verdict(cut > at_least - 0.02, cut < at_least - SAME), evidence)

    return judge


def _theirs(dataset: str) -> str:
    """The write-up's data set to put beside one of ours; it has no digits."""
    return dataset if dataset in ("cifar10", "cifar100") else "cifar10"


def _energy(rows: Rows, dataset: str) -> Judgement:
    dense, small = (value(rows.one(dataset, m), "energy_mj") for m in ("dense", STRUCTURED))
    ratio = small / dense
    evidence = f"{name(STRUCTURED)} takes {number_text(small, 2)} mJ an image, the dense network {number_text(dense, 2)}."
    return Judgement(_verdict(ratio < 1 - SAME, ratio > 1 + SAME), evidence)


CLAIMS = (
    Claim(
        "all_shrink",
        SIZE,
        "Every pruning method makes the file smaller",
        "Smallest exact file against the dense one",
        _all_shrink,
    ),
    Claim(
        "zeros_alone",
        SIZE,
        "A plainly saved network does not get smaller from zeros",
        "torch.save of both networks",
        _zeros_alone,
    ),
    Claim(
        "structured_smallest",
        SIZE,
        "Structured pruning shrinks the file most",
        "Its file against either unstructured network's smallest exact one, and sparser ones no less accurate beyond the noise",
        _structured_smallest,
    ),
    Claim(
        "coo_overhead",
        SIZE,
        "A COO file is not proportional to the weights that are left",
        "COO file / dense file against density: above 1.25 times it supports",
        _coo_overhead,
    ),
    Claim(
        "unstructured_keeps_macs",
        COST,
        "Unstructured pruning leaves MACs and peak memory as they were",
        "Ratio to the dense network, run with dense kernels (so of MACs by construction): within 5 % supports",
        _unstructured_keeps_macs,
    ),
    Claim(
        "dense_kernels",
        COST,
        "Without sparse kernels unstructured zeros do not make inference faster",
        "Latency of both unstructured networks: none more than 5 % below the fastest unpruned one of that shape supports",
        _dense_kernels,
    ),
    Claim(
        "channels_faster",
        COST,
        "For speed, removing channels is far more effective than zeroing weights",
        "On this report's sparse kernel: an unstructured network as fast (to 5 %) and no less accurate beyond the noise refutes",
        _channels_faster,
    ),
    Claim(
        "macs_cut",
        COST,
        "Structured pruning removes about 87 % of the MACs",
        "MACs by ptflops; the budget was set to the write-up's, so this holds by construction",
        _reduction("macs", 0.87, "{cut} fewer MACs"),
    ),
    Claim(
        "memory_cut",
        COST,
        "Structured pruning lowers peak memory by about 74 %",
        "Peak memory at batch 128; at least 72 % supports, below 69 % refutes",
        _reduction("peak_memory_mib", 0.74, "{cut} less peak memory at batch 128"),
    ),
    Claim(
        "latency_cut",
        COST,
        "Structured pruning lowers latency by about 40 to 50 %",
        "Latency at batch 1; at least 38 % supports (more, on another device, is no contradiction), below 35 % refutes",
        _reduction("latency_ms", 0.40, "{cut} less time at batch 1"),
    ),
    Claim(
        "energy",
        COST,
        "Structured pruning saves energy",
        "Energy an image: more than 5 % less supports",
        _energy,
        asked_here=True,
    ),
)
