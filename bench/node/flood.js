// Prints so many lines of 200 bytes a second, `LINES` (20,000), and answers.
const line = 'x'.repeat(199) + '\n';
const every = 5;
const lines = Number(process.env.LINES || 20000) * every / 1000;
setInterval(() => { for (let n = 0; n < lines; n++) process.stdout.write(line); }, every);

require('./server.js');
