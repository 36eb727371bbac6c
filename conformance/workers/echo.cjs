'use strict';
// Sends back what it is sent: through process or through cluster.worker.
const cluster = require('node:cluster');

const through = process.env.THROUGH === 'worker' ? cluster.worker : process;
through.on('message', (message) => through.send({ echo: message, type: typeof message }));
through.send('ready');
