// The real TensorFlow.js: tf.io.http and tf.io.decodeWeights, so that all tensors have their values in memory.
// Prints what benchmarks/peers/clock.py prints, measured in the same way.
const crypto = require('node:crypto');
const fs = require('node:fs');
console.warn = () => {};
const tf = require('@tensorflow/tfjs');

function status() {
  const lines = fs.readFileSync('/proc/self/status', 'utf8').matchAll(/^(\w+):\s+(\d+) kB$/gm);
  return Object.fromEntries([...lines].map(([, name, size]) => [name, Number(size) * 1024]));
}

function sha256(tensors) {
  const hash = crypto.createHash('sha256');
  for (const tensor of Object.values(tensors)) {
    const values = tensor.dataSync();
    hash.update(Buffer.from(values.buffer, values.byteOffset, values.byteLength));
  }
  return hash.digest('hex');
}

(async () => {
  const [url, flag] = process.argv.slice(2);
  await tf.ready();
  fs.writeFileSync('/proc/self/clear_refs', '5');
  const before = status().RssAnon;
  const used = process.cpuUsage();
  const started = performance.now();
  const {weightSpecs, weightData} = await tf.io.http(url).load();
  const tensors = tf.io.decodeWeights(weightData, weightSpecs);
  const wall = (performance.now() - started) / 1000;
  const {user, system} = process.cpuUsage(used);
  const after = status();
  const peak = after.VmHWM - after.RssFile - after.RssShmem - before;
  const digest = flag === '--digest' ? sha256(tensors) : null;
  console.log(JSON.stringify({wall, cpu: (user + system) / 1e6, peak, digest}));
})();
