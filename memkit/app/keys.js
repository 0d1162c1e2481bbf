// Keys of the walk press its buttons, where no control that has a use for the key is in focus.
(() => {
  const buttons = {
    ArrowLeft: "move-left", ArrowRight: "move-right", ArrowUp: "move-forward", w: "move-forward",
    a: "move-half-left", d: "move-half-right", s: "move-wait",
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.closest("input, textarea, select, [role=tab], [role=slider], [role=listbox], [tabindex='0'].scroll")) return;
    const button = document.getElementById(buttons[event.key.length === 1 ? event.key.toLowerCase() : event.key]);
    if (!button || button.offsetParent === null) return;
    event.preventDefault();
    if (!button.disabled) button.click();
  });
  // a choice made with the pointer gives the keys back to the walk
  addEventListener("pointerup", (event) => {
    if (event.target.closest("#memory-choice, #seen-choice")) setTimeout(() => document.activeElement.blur(), 100);
  });
})();
