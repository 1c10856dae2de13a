// Names the points of a figure: under the pointer, by a tap, and with the arrow keys where the figure has the focus.
for (const svg of document.querySelectorAll("svg:has(use > title)")) {
  const points = [...svg.querySelectorAll("use > title")].map(title => {
    const use = title.parentNode, text = title.textContent;
    title.remove(); // else the browser shows it as well
    return { x: +use.getAttribute("x"), y: +use.getAttribute("y"), text };
  }).sort((a, b) => a.x - b.x || a.y - b.y);
  const ring = svg.appendChild(document.createElementNS(svg.namespaceURI, "circle"));
  const tip = document.body.appendChild(document.createElement("div"));
  ring.setAttribute("class", "ring");
  tip.className = "tip";
  tip.setAttribute("role", "status");
  svg.setAttribute("role", "application");
  svg.tabIndex = 0;
  let at = 0;

  function hide() {
    tip.textContent = "";
    ring.removeAttribute("r");
  }

  // Points that lie on this one are counted, and named where they are few.
  function show(index) {
    at = index;
    const point = points[at];
    const others = points.filter(p => p !== point && Math.hypot(p.x - point.x, p.y - point.y) < 1);
    const names = others.slice(0, 3).map(p => p.text.split("\n", 1)[0]);
    if (others.length > 3) names.push(`${others.length - 3} more`);
    tip.textContent = point.text + (names.length ? `\nalso here: ${names.join(", ")}` : "");
    for (const [name, value] of Object.entries({ cx: point.x, cy: point.y, r: 5 })) ring.setAttribute(name, value);
    const dot = ring.getBoundingClientRect(), box = tip.getBoundingClientRect(), page = document.documentElement;
    const left = Math.min(dot.left + dot.width / 2 - box.width / 2, page.clientWidth - box.width - 8);
    const above = dot.top - box.height - 8;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above < 8 ? dot.bottom + 8 : above}px`;
  }

  function find(event) {
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const reach = event.pointerType === "mouse" ? 8 : 24;
    let nearest = -1, least = reach;
    points.forEach((p, i) => {
      const distance = Math.hypot(p.x - place.x, p.y - place.y);
      if (distance < least) [nearest, least] = [i, distance];
    });
    nearest < 0 ? hide() : show(nearest);
  }

  svg.addEventListener("pointermove", event => event.pointerType === "mouse" && find(event));
  svg.addEventListener("click", find);
  svg.addEventListener("pointerleave", event => event.pointerType === "mouse" && hide());
  svg.addEventListener("focus", () => svg.matches(":focus-visible") && show(at));
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", event => {
    const last = points.length - 1;
    const next = { ArrowRight: Math.min(at + 1, last), ArrowLeft: Math.max(at - 1, 0), Home: 0, End: last }[event.key];
    if (event.key === "Escape") hide();
    if (next === undefined) return;
    event.preventDefault();
    show(next);
  });
  document.addEventListener("scroll", () => tip.textContent && show(at), true);
}
