(() => {
  const fold = document.getElementById("fold");
  const code = [...document.querySelectorAll("details.code")];
  if (fold) {
    fold.hidden = false;
    fold.addEventListener("click", () => {
      const open = fold.getAttribute("aria-pressed") !== "true";
      code.forEach((cell) => { cell.open = open; });
      fold.setAttribute("aria-pressed", String(open));
      fold.textContent = open ? "Hide all code" : "Show all code";
    });
  }
  const toc = document.querySelector("details.toc");
  if (toc && matchMedia("(max-width: 68rem)").matches) toc.open = false;
  const links = new Map([...document.querySelectorAll(".toc nav a")].map((a) => [decodeURIComponent(a.hash.slice(1)), a]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach((a) => a.removeAttribute("aria-current"));
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "0px 0px -75% 0px" });
  links.forEach((_, id) => { const heading = document.getElementById(id); if (heading) seen.observe(heading); });
})();
