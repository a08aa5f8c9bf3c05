'use strict';

// Draws what a page holds in data-chart, in the page's colours, light or dark.
(() => {
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function draw(place) {
    const { times, series } = JSON.parse(place.dataset.chart);
    // A count is one of a whole step: the last lasts as long as those before it.
    const ends = [...times, 2 * times.at(-1) - times.at(-2)];
    const step = uPlot.paths.stepped({ align: 1 });
    const shown = (plot, value) => (value == null ? '' : value.toLocaleString());
    const clock = (plot, splits) => splits.map((at) => {
      const text = new Date(at * 1e3).toISOString();
      return text.slice(11, 16) === '00:00' ? text.slice(5, 10) : text.slice(11, 16);
    });
    const colours = ['--chart-1', '--chart-2', '--chart-3'].map(colour);
    const axis = { stroke: colour('--soft'), grid: { stroke: colour('--line'), width: 1 }, ticks: { stroke: colour('--line'), width: 1 } };
    const size = () => ({ width: place.clientWidth, height: place.clientWidth < 500 ? 220 : 280 });
    const whole = (plot, splits) => splits.map((value) => (Number.isInteger(value) ? value.toLocaleString() : ''));
    place.replaceChildren();
    const plot = new uPlot({
      ...size(),
      tzDate: (at) => uPlot.tzDate(new Date(at * 1e3), 'Etc/UTC'),
      cursor: { points: { size: 7 } },
      scales: { y: { range: (plot, low, high) => [0, Math.max(high * 1.1, 4)] } },
      axes: [{ ...axis, values: clock }, { ...axis, size: 56, values: whole }],
      series: [{ label: 'UTC', value: (plot, at) => (at == null ? '' : new Date(at * 1e3).toISOString().slice(0, 16).replace('T', ' ')) }, ...series.map(({ name }, n) => ({
        label: name, value: shown, paths: step, stroke: colours[n], width: 2, fill: n ? undefined : `${colours[n]}1f`, points: { show: false }, dash: n === 2 ? [4, 4] : undefined,
      }))],
    }, [ends, ...series.map(({ values }) => [...values, values.at(-1)])], place);
    return () => plot.setSize(size());
  }

  for (const place of document.querySelectorAll('[data-chart]')) {
    let resize = draw(place);
    addEventListener('resize', () => resize());
    dark.addEventListener('change', () => { resize = draw(place); });
  }
})();
