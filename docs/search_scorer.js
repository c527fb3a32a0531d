// Order of the results of a search: answers and how-tos first, the API last.
// Opened from a disk, a page may not read another page, so that results have no excerpts there.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

const wordsOf = (text) => new Set(text.toLowerCase().match(/[a-z0-9]+/g));
const PLACES = { "docs/faq": 12, "docs/howto/": 10, "docs/papers": -5, "docs/api/": -10 };

var Scorer = {
  score: ([page, title, , , score]) => {
    const query = wordsOf(new URLSearchParams(location.search).get("q") || "");
    const shared = [...wordsOf(title)].filter((word) => query.has(word)).length;
    const place = Object.keys(PLACES).find((start) => page.startsWith(start));
    return score + 5 * shared + (PLACES[place] || 0);
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
