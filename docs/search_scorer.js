// What Sphinx's search ranks by, and less for pages that name everything: the changelog, and the references as a whole.
var Scorer = {
  score: ([page, , anchor, , score]) =>
    page === "changelog" ? score - 4 : page.startsWith("reference/") && !anchor ? score - 2 : score,
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
