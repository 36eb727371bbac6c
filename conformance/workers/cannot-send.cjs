'use strict';
// What is not JSON cannot be sent, and send() says so; what JSON leaves out vanishes.
const seen = [];
for (const bad of [undefined, () => {}, Symbol('s'), 1n]) {
  try {
    process.send(bad);
    seen.push('sent');
  } catch (error) {
    seen.push(error.code ?? error.name);
  }
}
process.send({ seen, date: new Date(0), left: undefined, inner: [undefined, NaN, () => {}] });
