'use strict';

// Pages work without this; it adds comfort.

// A job's page looks again by itself.
for (const running of document.querySelectorAll('[data-refresh]')) {
  setTimeout(() => location.reload(), 2000);
}

// Exact times are shown in the reader's own zone to those who point at them.
for (const time of document.querySelectorAll('time[datetime]')) {
  const at = new Date(time.dateTime);
  if (!Number.isNaN(at.getTime())) time.title += ` · here ${at.toLocaleString()}`;
}

// What ends sessions is sent once, however often the button is pressed.
for (const form of document.querySelectorAll('form[method=post]')) {
  form.addEventListener('submit', (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = 'yes';
  });
}
addEventListener('pageshow', () => {
  for (const form of document.querySelectorAll('form[data-sent]')) delete form.dataset.sent;
});
