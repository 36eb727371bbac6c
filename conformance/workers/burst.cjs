'use strict';
// Sends many messages at once, each with a callback, then says how the callbacks were called.
process.on('message', ({ count, size }) => {
  const filler = 'ü'.repeat(size);
  const seen = [];
  for (let n = 0; n < count; n++) {
    process.send({ n, filler }, (error) => {
      seen.push(error);
      if (seen.length === count) process.send({ called: seen.filter((e) => e === null).length });
    });
  }
});
process.send('ready');
