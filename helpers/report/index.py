"""The first page: what was asked, five findings with their figures, the figure that sums them up, and where to read on."""

from collections.abc import Sequence

from markupsafe import Markup

from helpers import plan, progress, settings, study
from helpers.report import analysis, claims, pages, style
from helpers.report.plots.overview import overview

ASKED = (
    "VGG16-BN on {datasets}, pruned in three ways. How small does the file get, how fast does the network run, and what does "
    "that cost in accuracy, against a dense network given the same further training? The write-up is the earlier report whose "
    "statements are tested, measured on a GPU."
)
DEMO = (
    "This is the demo: the digits that ship inside scikit-learn and a network of a quarter of the width. It shows that all of it "
    "runs, and answers nothing about CIFAR."
)


def page(profile: str, site: Sequence[pages.Page], provenance: dict[str, str]) -> str:
    """The whole file, computed from the rows that are there; what is missing says so."""
    rows = study.rows(settings.profile(profile), compute_missing=False)
    datasets = (
        " and ".join(style.dataset(name) for name in dict.fromkeys(row["dataset"] for row in rows)) or "CIFAR-10 and CIFAR-100"
    )
    style.apply()
    figure = overview(rows, profile)
    if figure is None:
        progress.say("the first page has no figure yet: no row has both a cost and its dense control")
    body = pages.template("index.html.j2").render(
        site=pages.SITE,
        asked=ASKED.format(datasets=datasets),
        answer=claims.answer(rows),
        caveat=DEMO if profile == "demo" else "",
        findings=claims.findings(rows),
        certainty=analysis.certainty(rows, plan.plan(settings.profile(profile))),
        figure=Markup(figure._repr_html_()) if figure else None,
        pages=site,
    )
    return pages.render(pages.Body(body), None, site, profile=profile, provenance=provenance)
