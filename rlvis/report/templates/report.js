for (const pair of document.querySelectorAll("[data-sheets]")) {
  const slider = pair.parentElement.querySelector(".slider");
  if (!slider) continue;
  const sheets = [...pair.querySelectorAll(".sheet")];
  const input = slider.querySelector("input");
  const show = () => {
    sheets.forEach((sheet, i) => sheet.classList.toggle("end", i === 0 || i === Number(input.value)));
    slider.querySelector("output").textContent = sheets[Number(input.value)].querySelector("h3").textContent;
  };
  slider.hidden = false;
  input.addEventListener("input", show);
  show();
}
