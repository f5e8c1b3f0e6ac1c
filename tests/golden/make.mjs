/**
 * Writes `tfjs_fetch/demo_model/` and the JSON files beside this one with the real TensorFlow.js.
 *
 * Usage: node make.mjs REPOSITORY     (README.md says how to get there; running it twice gives the same bytes)
 *
 * Every expected value below comes out of TensorFlow.js. What this script adds is inputs, made by its own generator of
 * pseudo-random numbers, and checks: it stops at the first thing which is not as the files claim.
 */
import assert from 'node:assert/strict';
import {createHash} from 'node:crypto';
import {mkdirSync, readdirSync, rmSync, writeFileSync} from 'node:fs';
import {createServer} from 'node:http';
import {endianness} from 'node:os';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';

const DEMO_SHARDS = 6;
// Odd on purpose: the cuts between shards then fall inside a float.
const DEMO_SHARD_BYTES = 14001;

async function main(repository) {
  assert.equal(endianness(), 'LE', 'TensorFlow.js decodes in host order, the golden files are little-endian');
  await tf.setBackend('cpu');
  const golden = join(repository, 'tests', 'golden');
  const server = await LoopbackServer.start();
  try {
    const demo = await demoModel(server);
    writeFolder(join(repository, 'tfjs_fetch', 'demo_model'), demo.files);
    writeFileSync(join(golden, 'demo_model.json'), rows(demo.expected));
    writeFileSync(join(golden, 'dequantization.json'), rows(dequantization()));
    writeFileSync(join(golden, 'mixed.json'), rows(await mixed()));
    writeFileSync(join(golden, 'models.json'), rows(await wholeModels(server)));
  } finally {
    server.close();
  }
}

// The demo model: an image classifier a reader can believe in, with weights that mean nothing.

async function demoModel(server) {
  const random = generator(1);
  const model = classifier();
  model.setWeights(model.weights.map((weight) => plausibleWeight(weight, random)));
  model.setUserDefinedMetadata({
    name: 'tfjs_fetch demo: 28x28 grey images to ten classes',
    licence: 'CC0-1.0. The weights are pseudo-random numbers from tests/golden/make.mjs, trained on nothing.',
  });
  const image = tf.tensor(Float32Array.from({length: 784}, (_, i) => ((i * 37) % 256) / 255), [1, 28, 28, 1]);
  const before = model.predict(image).dataSync();

  const saved = await saveOverHttp(server, model);
  const {document, shards} = reshard(saved, DEMO_SHARD_BYTES);
  assert.equal(Object.keys(shards).length, DEMO_SHARDS);
  const files = {'model.json': Buffer.from(JSON.stringify(document)), ...shards};

  const url = server.serve('demo', files);
  const after = (await tf.loadLayersModel(url)).predict(image).dataSync();
  assert.deepEqual(after, before);
  return {
    files,
    expected: {
      weights: await decodedDigests(url),
      input: 'float32 [1,28,28,1]; value i in C order is ((i*37)%256)/255',
      prediction: Array.from(before),
      prediction_hex: hexOf(bytesOf(before)),
    },
  };
}

function classifier() {
  const {layers} = tf;
  // Seeded, so that no initializer touches Math.random; the values are replaced anyway.
  const glorot = () => tf.initializers.glorotUniform({seed: 1});
  const separable = (name, filters) => layers.separableConv2d({
    name, filters, kernelSize: 3, padding: 'same', activation: 'relu',
    depthwiseInitializer: glorot(), pointwiseInitializer: glorot(),
  });
  const dense = (name, units, activation) => layers.dense({name, units, activation, kernelInitializer: glorot()});
  return tf.sequential({
    name: 'classifier',
    layers: [
      layers.conv2d({
        name: 'stem_conv', inputShape: [28, 28, 1], filters: 16, kernelSize: 3, padding: 'same', activation: 'relu',
        kernelInitializer: glorot(),
      }),
      layers.batchNormalization({name: 'stem_norm'}),
      layers.maxPooling2d({name: 'stem_pool', poolSize: 2}),
      separable('block1_conv', 32),
      layers.batchNormalization({name: 'block1_norm'}),
      layers.maxPooling2d({name: 'block1_pool', poolSize: 2}),
      separable('block2_conv', 64),
      layers.batchNormalization({name: 'block2_norm'}),
      layers.globalAveragePooling2d({name: 'average'}),
      dense('hidden1', 128, 'relu'),
      layers.dropout({name: 'dropout', rate: 0.25, seed: 1}),
      dense('hidden2', 64, 'relu'),
      dense('classes', 10, 'softmax'),
    ],
  });
}

function plausibleWeight(weight, random) {
  const shape = weight.shape;
  const kind = weight.originalName.split('/').pop();
  const around = (centre, spread) => tf.tensor(
      Float32Array.from({length: tf.util.sizeFromShape(shape)}, () => centre + spread * (2 * random() - 1)), shape);
  if (kind === 'gamma') return around(1, 0.2);
  if (kind === 'moving_variance') return around(0.5, 0.3);
  if (shape.length === 1) return around(0, 0.1);
  const fanIn = tf.util.sizeFromShape(kind === 'depthwise_kernel' ? shape.slice(0, 2) : shape.slice(0, -1));
  return around(0, Math.sqrt(6 / fanIn));
}

// Quantized values: every stored value there is, for ranges which are ordinary and ranges which are not.

const RANGES = [
  // Ordinary ones, as a converter writes them.
  [-1, 0.1], [-1, 0.007843137254901961], [-6.123234, 0.0234375], [0.30000000000000004, 0.1],
  // Integers in the JSON text.
  [-1, 1], [6, 2],
  // Halves and their neighbours: int32 rounds halves upwards.
  [-1.5, 0.5], [-3.5, 0.25], [0.49999999999999994, 1], [-0.49999999999999994, 1], [-4503599627370497, 1],
  // Tiny and huge scales: subnormal, large, overflowing float32, overflowing float64.
  [0, 1e-45], [0, 1e30], [0, 1e38], [0, 1e308],
  // Values which leave the range of int32; 1e19 leaves that of int64 and still has bits to wrap.
  [0, 1e6], [0, 1e19], [-2147483649, 65537.5], [0, 1e300], [1e300, -1e300],
  // Downwards, and not at all.
  [5, -0.25], [0.1, 0],
];

function dequantization() {
  const affine = [];
  for (const [min, scale] of RANGES) {
    for (const stored of ['uint8', 'uint16']) {
      for (const dtype of ['float32', 'int32']) {
        const bytes = decodeOne(everyValue(stored), dtype, {dtype: stored, min, scale});
        affine.push({stored, dtype, min, scale, sha256: sha256(bytes), first: words(bytes).slice(0, 8).map(bits)});
      }
    }
  }
  return {float16: float16(), affine};
}

function float16() {
  const bytes = decodeOne(everyValue('uint16'), 'float32', {dtype: 'float16'});
  const decoded = words(bytes);
  // A NaN that went through a JavaScript number could come back as another NaN, so the bits are compared as integers.
  decoded.forEach((word, half) => assert.equal(word, widened(half), `float16 pattern ${half}`));
  const examples = [
    0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x0400, 0x3400, 0x3555, 0x3800, 0x3c00, 0xbc00, 0xc000, 0x7bff, 0xfbff,
    0x7c00, 0xfc00, 0x7c01, 0x7dff, 0x7e00, 0x7fff, 0xfc01, 0xfe00, 0xffff,
  ];
  const hex4 = (half) => half.toString(16).padStart(4, '0');
  return {sha256: sha256(bytes), examples: examples.map((half) => [hex4(half), bits(decoded[half])])};
}

/** The float32 bits of a float16, by integer arithmetic alone and another way than TensorFlow.js does it. */
function widened(half) {
  const sign = half >>> 15;
  let exponent = (half >>> 10) & 31;
  let fraction = half & 1023;
  if (exponent === 0 && fraction === 0) return (sign << 31) >>> 0;
  if (exponent === 31) return ((sign << 31) | 0x7f800000 | (fraction << 13)) >>> 0;
  if (exponent === 0) {
    const shift = Math.clz32(fraction) - 21;
    exponent = 1 - shift;
    fraction = (fraction << shift) & 1023;
  }
  return ((sign << 31) | ((exponent + 112) << 23) | (fraction << 13)) >>> 0;
}

function everyValue(stored) {
  return stored === 'uint8' ? Uint8Array.from(Array(256).keys()) : Uint16Array.from(Array(65536).keys());
}

function decodeOne(stored, dtype, quantization) {
  const spec = {name: 'w', shape: [stored.length], dtype, quantization};
  return weightBytes(tf.io.decodeWeights(stored.buffer, [spec]).w);
}

// Small groups, byte for byte.

function mixed() {
  const affine = (dtype, min, scale) => ({quantization: {dtype, min, scale}});
  const spec = (name, shape, dtype, more = {}) => ({name, shape, dtype, ...more});
  const floats = '000020c10000a0c10000f0c1';
  return Promise.all([
    group('mixed_dtypes',
        '0a000000140000001e00000028000000' + '85eb5541' + '010000' +
        '0c000000d0b7d0b4d180d0b0d0b2d0be' + '0100000061' + '0100000062' + '0100000063' + '00000000' +
        '0500000068656c6c6f' + floats + '0000803f00000040' + '0000803f00000040',
        [spec('x1', [2, 2], 'int32'), spec('x2', [], 'float32'), spec('x3', [3], 'bool'), spec('x4', [2, 2], 'string'),
          spec('x5', [1], 'string'), spec('x6', [], 'string'), spec('y1', [3, 1], 'float32'),
          spec('y2', [2], 'complex64')]),
    group('scalars',
        '0000c03f' + 'feffffff' + '01' + '0000803f000000c0' + '02000000c3a9' + 'ff' + '0080' + '003c',
        [spec('float', [], 'float32'), spec('int', [], 'int32'), spec('bool', [], 'bool'),
          spec('complex', [], 'complex64'), spec('string', [], 'string'),
          spec('uint8', [], 'float32', affine('uint8', -1, 0.1)), spec('uint16', [], 'int32', affine('uint16', -1, 2)),
          spec('float16', [], 'float32', {quantization: {dtype: 'float16'}})]),
    group('zero_sizes',
        '0100000061' + '07000000' + '01' + '0000803f' + '0100000062',
        [spec('no_floats', [0], 'float32'), spec('a', [1], 'string'), spec('no_strings', [0], 'string'),
          spec('no_strings_2d', [2, 0], 'string'), spec('seven', [1], 'int32'), spec('no_ints', [0, 3], 'int32'),
          spec('no_bools', [0], 'bool'), spec('true', [1], 'bool'), spec('no_complex', [1, 0], 'complex64'),
          spec('no_uint8', [0], 'float32', affine('uint8', 0, 1)),
          spec('no_float16', [0], 'float32', {quantization: {dtype: 'float16'}}), spec('one', [1], 'float32'),
          spec('b', [], 'string'), spec('no_uint16', [4, 0], 'int32', affine('uint16', 0, 1))]),
    group('nothing', '', [spec('no_strings', [0], 'string'), spec('no_floats', [3, 0], 'float32')]),
    group('unaligned',
        '01' + floats + '00' + '0000008001000000' + '01' + '0000803f000000400000404000008040' + '010001' + '0000a040',
        [spec('bool1', [1], 'bool'), spec('floats', [3], 'float32'), spec('bool2', [], 'bool'),
          spec('ints', [2], 'int32'), spec('bool3', [1, 1], 'bool'), spec('complexes', [2], 'complex64'),
          spec('bools', [3], 'bool'), spec('last', [], 'float32')]),
    // TensorFlow.js keeps a bool byte as it is.
    group('bool_seven', '070001ff', [spec('bools', [2, 2], 'bool')]),
    group('special_floats',
        '00000000' + '00000080' + '0000807f' + '000080ff' + '0000c07f' + '010000c0' + '01000000' + 'ffff7f7f' +
        '0100807f' + '785634ff',
        [spec('floats', [10], 'float32')]),
    group('extreme_ints', '00000080' + 'ffffff7f' + 'ffffffff', [spec('ints', [3], 'int32')]),
    group('strings',
        '00000000' + '00000000' + '04000000f09f8d80' + '03000000e8afad' + '02000000fffe' + '0100000080' +
        '03000000610062' + '0400000068006500' + '0600000063166474662e' + '00000000',
        [spec('empties', [2], 'string'), spec('utf8', [2], 'string'), spec('not_utf8', [2], 'string'),
          spec('with_nul', [], 'string'), spec('utf16', [1], 'string'), spec('bytes', [2, 1], 'string')]),
    group('long_string', '2c010000' + 'ab'.repeat(300) + '2a000000',
        [spec('long', [], 'string'), spec('after', [], 'int32')]),
    group('quantized_and_not',
        '0000803f' + '0030ff' + '01' + '00003000ff00' + '05000000' + '00340038003a' + '0030ff' +
        '00003000ff00' + '0000004000004040' + '0100000078',
        [spec('plain_float', [], 'float32'), spec('uint8_float', [3], 'float32', affine('uint8', -1, 0.1)),
          spec('plain_bool', [1], 'bool'), spec('uint16_float', [3, 1], 'float32', affine('uint16', -1, 0.1)),
          spec('plain_int', [1], 'int32'), spec('float16', [3], 'float32', {quantization: {dtype: 'float16'}}),
          spec('uint8_int', [3], 'int32', affine('uint8', -1, 0.1)),
          spec('uint16_int', [1, 3], 'int32', affine('uint16', -1, 0.1)), spec('plain_floats', [2], 'float32'),
          spec('plain_string', [], 'string')]),
    group('extra_keys', '0030ff' + '0000803f',
        [spec('python', [3], 'float32',
            {quantization: {dtype: 'uint8', min: -1, scale: 0.1, original_dtype: 'float32'}}),
        spec('iter', [], 'float32', {group: 'optimizer'})]),
  ]);
}

async function group(name, data, weights) {
  const bytes = Uint8Array.from(Buffer.from(data, 'hex'));
  assert.equal(hexOf(bytes), data);
  const tensors = tf.io.decodeWeights(bytes.buffer, weights);
  const decoded = {};
  for (const {name, shape, dtype} of weights) {
    const tensor = tensors[name];
    assert.deepEqual([tensor.shape, tensor.dtype], [shape, dtype]);
    // As bytes: dataSync() would force UTF-8 onto them.
    decoded[name] = dtype === 'string' ? (await tensor.bytes()).map(hexOf) : hexOf(weightBytes(tensor));
  }
  return {name, data, weights, decoded};
}

// Whole models, as documents and shards.

async function wholeModels(server) {
  const saved = async (model, shardBytes, config) => reshard(await saveOverHttp(server, model, config), shardBytes);
  return {
    two_inputs_and_a_shared_layer: await layersModel(server, await saved(twoInputs(generator(2)), 50)),
    nested: await layersModel(server, await saved(nested(generator(3)), 4194304)),
    graph: await graphModel(server),
    second_group_bigger: await twoGroups(server),
    with_optimizer: await layersModel(server, await saved(await trained(generator(4)), 37, {includeOptimizer: true})),
  };
}

function twoInputs(random) {
  const left = tf.input({name: 'left', shape: [3]});
  const right = tf.input({name: 'right', shape: [3]});
  const shared = dense('shared', 4);
  const both = tf.layers.concatenate({name: 'both'}).apply([shared.apply(left), shared.apply(right)]);
  const model = tf.model({name: 'siamese', inputs: [left, right], outputs: dense('head', 2).apply(both)});
  return withWeights(model, random);
}

function nested(random) {
  const input = tf.input({name: 'inner_input', shape: [3]});
  const normal = tf.layers.batchNormalization({name: 'inner_norm'}).apply(dense('inner_dense', 3).apply(input));
  const inner = tf.model({name: 'inner', inputs: input, outputs: normal});
  const middle = tf.sequential({name: 'middle'});
  middle.add(dense('middle_dense', 3, {inputShape: [2]}));
  middle.add(inner);
  const outerInput = tf.input({name: 'outer_input', shape: [2]});
  const outputs = dense('outer_dense', 1).apply(middle.apply(outerInput));
  return withWeights(tf.model({name: 'outer', inputs: outerInput, outputs}), random);
}

async function trained(random) {
  // No other model here may use these layer names: the optimizer would call its weights `first/kernel_1/m`.
  const model = tf.sequential({name: 'regression'});
  model.add(dense('first', 3, {inputShape: [2]}));
  model.add(dense('second', 1));
  withWeights(model, random);
  model.compile({loss: 'meanSquaredError', optimizer: tf.train.adam(0.01)});
  await model.trainOnBatch(randomTensor([4, 2], random), randomTensor([4, 1], random));
  return model;
}

/** Two groups of which the second is the bigger: TensorFlow.js itself reads zeros here unless it reads by group. */
async function twoGroups(server) {
  const model = tf.sequential({name: 'bottleneck'});
  model.add(dense('squeeze', 1, {inputShape: [2]}));
  model.add(dense('expand', 8));
  const {document, weights} = await saveOverHttp(server, withWeights(model, generator(5)));
  const specs = document.weightsManifest[0].weights;
  document.weightsManifest = [
    {paths: ['group1-shard1of1.bin'], weights: specs.slice(0, 2)},
    {paths: ['group2-shard1of1.bin'], weights: specs.slice(2)},
  ];
  const shards = {'group1-shard1of1.bin': weights.subarray(0, 12), 'group2-shard1of1.bin': weights.subarray(12)};
  const url = server.serve('two_groups', {'model.json': Buffer.from(JSON.stringify(document)), ...shards});

  const digests = await decodedDigests(url);
  assert.deepEqual(digests, specs.map((spec, i) => digest(spec, model.weights[i].read())));
  const loaded = byName((await tf.loadLayersModel(url)).weights);
  const differs = (spec, i) => digest(spec, loaded[spec.name]).sha256 !== digests[i].sha256;
  const misread = specs.filter(differs).map((spec) => spec.name);
  assert.notDeepEqual(misread, []);
  return {
    loader: 'io.loadWeights', document, shards: base64(shards), weights: digests, misread_by_loadLayersModel: misread,
  };
}

async function graphModel(server) {
  const dim = (...sizes) => ({dim: sizes.map((size) => ({size: String(size)}))});
  const constant = (name, dtype, tensorShape) =>
    ({name, op: 'Const', attr: {dtype: {type: dtype}, value: {tensor: {dtype, tensorShape}}}});
  const document = {
    format: 'graph-model',
    generatedBy: '2.7.0',
    convertedBy: 'TensorFlow.js Converter v3.18.0',
    signature: {
      inputs: {a: {name: 'x:0', dtype: 'DT_FLOAT', tensorShape: dim(-1, 2)}},
      outputs: {
        b: {name: 'y:0', dtype: 'DT_FLOAT', tensorShape: dim(-1, 2)},
        total: {name: 'total:0', dtype: 'DT_FLOAT', tensorShape: dim(-1)},
      },
    },
    modelTopology: {
      node: [
        {name: 'x', op: 'Placeholder', attr: {dtype: {type: 'DT_FLOAT'}, shape: {shape: dim(-1, 2)}}},
        constant('w/ReadVariableOp', 'DT_FLOAT', dim(2)),
        constant('total/reduction_indices', 'DT_INT32', dim(1)),
        {name: 'y', op: 'Mul', input: ['x', 'w/ReadVariableOp'], attr: {T: {type: 'DT_FLOAT'}}},
        {
          name: 'total', op: 'Sum', input: ['y', 'total/reduction_indices'],
          attr: {keep_dims: {b: false}, T: {type: 'DT_FLOAT'}, Tidx: {type: 'DT_INT32'}},
        },
      ],
      library: {},
      versions: {producer: 440},
    },
    weightsManifest: [{
      paths: ['group1-shard1of1.bin'],
      weights: [
        {name: 'w/ReadVariableOp', shape: [2], dtype: 'float32'},
        {name: 'total/reduction_indices', shape: [1], dtype: 'int32'},
      ],
    }],
  };
  const shards = {'group1-shard1of1.bin': Buffer.from('0000004000004040' + '01000000', 'hex')};
  const url = server.serve('graph', {'model.json': Buffer.from(JSON.stringify(document)), ...shards});

  const model = await tf.loadGraphModel(url);
  const [product, total] = model.execute({x: tf.tensor2d([[1, 1]])}, ['y', 'total']);
  assert.deepEqual([product.arraySync(), total.arraySync()], [[[2, 3]], [5]]);
  const weights = await decodedDigests(url);
  assert.deepEqual(
      weights, document.weightsManifest[0].weights.map((spec) => digest(spec, model.weights[spec.name][0])));
  return {loader: 'loadGraphModel', document, shards: base64(shards), weights};
}

async function layersModel(server, {document, shards}) {
  const url = server.serve('layers', {'model.json': Buffer.from(JSON.stringify(document)), ...shards});
  const weights = await decodedDigests(url);

  const model = await tf.loadLayersModel(url);
  const ofModel = byName(model.weights);
  const ofOptimizer = model.optimizer ? byName(await model.optimizer.getWeights()) : {};
  const specs = document.weightsManifest[0].weights;
  assert.deepEqual(weights, specs.map((spec) => digest(spec, (spec.group ? ofOptimizer : ofModel)[spec.name])));
  assert.equal(weights.length, Object.keys(ofModel).length + Object.keys(ofOptimizer).length);
  return {loader: 'loadLayersModel', document, shards: base64(shards), weights};
}

function dense(name, units, config = {}) {
  return tf.layers.dense({name, units, kernelInitializer: 'zeros', ...config});
}

function withWeights(model, random) {
  model.setWeights(model.weights.map((weight) => randomTensor(weight.shape, random)));
  return model;
}

function byName(weights) {
  const named = weights.map((w) => [w.originalName ?? w.name, w.tensor ?? w.read()]);
  return Object.fromEntries(named);
}

// Between a model in memory and its files.

/** The document and the weights as TensorFlow.js itself posts them when it saves to a URL. */
async function saveOverHttp(server, model, config) {
  await model.save(server.url('save'), config);
  const form = await server.posted;
  return {
    document: JSON.parse(await form.get('model.json').text()),
    weights: Buffer.from(await form.get('model.weights.bin').arrayBuffer()),
  };
}

function reshard({document, weights}, shardBytes) {
  const count = Math.ceil(weights.length / shardBytes);
  const paths = Array.from({length: count}, (_, i) => `group1-shard${i + 1}of${count}.bin`);
  const cut = (i) => weights.subarray(i * shardBytes, (i + 1) * shardBytes);
  document.weightsManifest[0].paths = paths;
  return {document, shards: Object.fromEntries(paths.map((path, i) => [path, cut(i)]))};
}

/** What TensorFlow.js decodes from the model at `url`, each group for itself. */
async function decodedDigests(url) {
  const {weightsManifest} = await (await fetch(url)).json();
  const tensors = await tf.io.loadWeights(weightsManifest, url.replace('/model.json', ''));
  return weightsManifest.flatMap((group) => group.weights).map((spec) => digest(spec, tensors[spec.name]));
}

function digest({name, shape, dtype}, tensor) {
  assert.deepEqual([tensor.shape, tensor.dtype], [shape, dtype], name);
  return {name, shape, dtype, sha256: sha256(weightBytes(tensor))};
}

class LoopbackServer {
  static async start() {
    const server = new LoopbackServer();
    server.files = {};
    server.http = createServer((request, response) => server.answer(request, response));
    await new Promise((resolve) => server.http.listen(0, '127.0.0.1', resolve));
    return server;
  }

  url(path) {
    return `http://127.0.0.1:${this.http.address().port}/${path}`;
  }

  /** The URL of the model.json among `files`, which replace what was served in `folder`. */
  serve(folder, files) {
    this.files[folder] = files;
    return this.url(`${folder}/model.json`);
  }

  async answer(request, response) {
    if (request.method === 'POST') {
      const chunks = await request.toArray();
      this.posted = new Response(Buffer.concat(chunks), {headers: request.headers}).formData();
      return response.end();
    }
    const [, folder, name] = request.url.split('/');
    const body = this.files[folder]?.[name];
    response.writeHead(body ? 200 : 404).end(body);
  }

  close() {
    this.http.close();
    this.http.closeAllConnections();
  }
}

// Bytes and numbers.

/** mulberry32: uniform in [0, 1), the same on every machine. */
function generator(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

function randomTensor(shape, random) {
  return tf.tensor(Float32Array.from({length: tf.util.sizeFromShape(shape)}, () => 2 * random() - 1), shape);
}

/** The bytes behind a numeric tensor; the cpu backend hands out the very array that was decoded, so NaNs stay. */
function weightBytes(tensor) {
  return bytesOf(tensor.dataSync());
}

function bytesOf(array) {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

function words(bytes) {
  return Array.from(new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4));
}

function bits(word) {
  return word.toString(16).padStart(8, '0');
}

function hexOf(bytes) {
  return Buffer.from(bytes).toString('hex');
}

function sha256(bytes) {
  return createHash('sha256').update(bytes).digest('hex');
}

function base64(shards) {
  return Object.fromEntries(Object.entries(shards).map(([path, bytes]) => [path, bytes.toString('base64')]));
}

/** JSON with one row for each thing in it, so that a change reads well in a diff. */
function rows(value, depth = 2) {
  if (depth === 0 || typeof value !== 'object') return JSON.stringify(value);
  const inner = Array.isArray(value) ?
    value.map((item) => rows(item, depth - 1)) :
    Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}:${rows(item, depth - 1)}`);
  const [open, close] = Array.isArray(value) ? '[]' : '{}';
  return `${open}\n${inner.join(',\n')}\n${close}` + (depth === 2 ? '\n' : '');
}

function writeFolder(folder, files) {
  mkdirSync(folder, {recursive: true});
  const ours = readdirSync(folder).filter((name) => /^(model\.json|group1-.*\.bin)$/.test(name));
  ours.forEach((name) => rmSync(join(folder, name)));
  Object.entries(files).forEach(([name, bytes]) => writeFileSync(join(folder, name), bytes));
}

await main(process.argv[2]);
