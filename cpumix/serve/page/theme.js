// Before anything is shown: the appearance that was chosen here, so that the page does not flash.
document.documentElement.dataset.theme = "system";
try {
  document.documentElement.dataset.theme = localStorage.getItem("cpumix.theme") ?? "system";
} catch {
  // This browser keeps nothing; the system's appearance it is.
}
