"""What verdicts look at: one line a network with the costs that a reader compares, and comparisons of its trainings."""

import pandas as pd

from helpers import statistics
from helpers.report import look, published, tables
from helpers.statistics import Comparison

FILES = ["size_mib", "size_dense_mib", "size_coo_mib", "size_csr_mib", "size_bitmask_mib"]  # exact to the bit
REPORTED = {  # our columns → the original's
    **{"file_mib": "size_mib", "size_coo_mib": "size_mib"},
    **{"usual_latency_ms": "latency_ms", "time_batch128_ms": "latency_ms"},
}
TRAINING = [*statistics.NETWORK, "seed", "epochs", "top1_pct", "correct", "experiment"]  # what a comparison reads

Network = tuple[str, str]  # method, label


class Missing(LookupError):
    """A result or a column that is not there; the message is a phrase for the reader."""


def networks(frame: pd.DataFrame) -> pd.DataFrame:
    """One line a network: means over its seeds (`seeds` of them), with costs.

    `file_mib` is its smallest exact file, `values_mib` the bytes of the values that are left. Networks without masks and of
    one shape do equal work on dense kernels and differ by noise: `usual_…` is the median of their times. `time_ms` and
    `time_batch128_ms` are the fastest way that was measured, zeros skipped or not (fine-tuning moves values and no zeros, so
    a fine-tuned network has the time of its masks); `fused` says whether batch norm was folded in it. `int8_change` is what
    8-bit numbers change of its top-1, in points.
    """
    made = tables.means(frame.assign(int8_change=frame["int8_top1_pct"] - frame["top1_pct"]))
    made = made.iloc[pd.factorize(made["dataset"])[0].argsort(kind="stable")]  # one data set after the other
    masked = made["target_sparsity_pct"].notna()
    made["file_mib"], made["values_mib"] = made[FILES].min(axis=1), made["size_dense_mib"] * made["density_pct"] / 100
    made["fused"] = masked | made["folded_latency_batch128_ms"].notna()
    labels = made["label"].replace("curve_finetuned", "curve")
    same_masks = [made["dataset"], made["method"], labels, made["target_sparsity_pct"]]
    for column, time in (("latency_ms", "time_ms"), ("latency_batch128_ms", "time_batch128_ms")):
        for dense in (column, f"folded_{column}"):
            usual = made[~masked].groupby(["dataset", "params", "macs"], dropna=False)[dense].transform("median")
            made[f"usual_{dense}"] = usual.where(made[dense].notna()).combine_first(made[dense])
        fastest = made[[f"usual_{column}", f"usual_folded_{column}", f"sparse_{column}"]].min(axis=1)
        made[time] = fastest.groupby(same_masks, dropna=False).transform("min")
    return made


class Evidence:
    """The results of one data set: `lines` of `networks`, their comparisons, and the original report's figures."""

    def __init__(self, frame: pd.DataFrame, dataset: str):
        self.frame, self.dataset, own = frame, dataset, frame[frame["dataset"] == dataset]
        self.lines, self.trainings = [line for _, line in networks(own).iterrows()], own[TRAINING]
        groups = self.trainings.groupby(statistics.NETWORK, dropna=False, sort=False)
        self.seeds = dict(zip((line.name for line in self.lines), (group for _, group in groups), strict=True))

    def find(self, *wanted: Network, having: str = "top1_pct") -> list[pd.Series]:
        """The lines with one of these methods and labels, at every sparsity, that have a column measured."""
        there = [line for line in self.lines if pd.notna(line[having])]
        return [line for network in wanted for line in there if (line["method"], line["label"]) == network]

    def one(self, network: Network) -> pd.Series:
        if found := self.find(network):
            return found[0]
        raise Missing(f"no {look.name(*network)} on {look.dataset(self.dataset)}")

    def value(self, network: Network, column: str) -> float:
        line = self.one(network)
        if pd.isna(line[column]):
            reasons = line["reasons"] if isinstance(line["reasons"], dict) else {}
            why = reasons.get(column, "not measured").removeprefix("not measured: ")
            raise Missing(f"{tables.HEADINGS[column].noun} of {look.name(*network)}: {why}")
        return line[column]

    def compare(self, ours: pd.Series, theirs: pd.Series, tests: int = 1) -> Comparison:
        """Top-1 of two lines over all of their seeds; `tests` as in `statistics.compare`."""
        return statistics.compare(self.seeds[ours.name], self.seeds[theirs.name], self.trainings, tests=tests)

    def reported(self, method: str, column: str) -> float:
        """The original report's figure or NaN; that of CIFAR-10 for a data set that it does not have."""
        theirs = self.dataset if self.dataset in set(published.ORIGINAL["dataset"]) else "cifar10"
        return published.reported(theirs, method, REPORTED.get(column, column))


def called(line: pd.Series) -> str:
    """A line of `networks` as a reader knows it, with its sparsity where there are others of its name."""
    method, label = line["method"], line["label"]
    several = "curve" in label or (method == "repaired" and label)
    name = look.name(method, "" if method == "repaired" and label == "curve" else label)  # a curve of repairs trains nothing
    return f"{name} at {line['target_sparsity_pct']:g} %" if several else name
