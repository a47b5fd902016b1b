// The heatmap in WebGL2. One R32F texture is a ring of columns (2R+1 cells each), one R32I texture says at which tick
// each column is centred, so the price axis stands still while the window follows the market. A new bin uploads one
// column; scrolling, zooming and recentring only change uniforms. Cells are fetched exactly, never interpolated.

import { colourTable } from "./colour.js";
import { WIDTH } from "./history.js";

const VERTEX = `#version 300 es
void main() { vec2 p = vec2((gl_VertexID << 1) & 2, gl_VertexID & 2); gl_Position = vec4(p * 2.0 - 1.0, 0.0, 1.0); }`;

const FRAGMENT = `#version 300 es
precision highp float; precision highp int; precision highp sampler2D; precision highp isampler2D;
uniform sampler2D cells; uniform isampler2D places; uniform sampler2D colours;
uniform vec2 size, cell; uniform float right, centre, low, top, gain; uniform int head, tail, radius, width, diverging;
uniform vec3 background, hatch;
out vec4 colour;
void main() {
  vec2 p = gl_FragCoord.xy;
  int column = int(floor(right - (size.x - p.x) / cell.x));
  colour = vec4(background, 1.0);
  if (column < tail || column >= head) return;
  int slot = column % width;
  ivec2 place = texelFetch(places, ivec2(slot, 0), 0).rg;
  if (place.g >= 2) {
    float stripe = step(0.5, fract((p.x + p.y) / 9.0));
    colour = vec4(mix(background, hatch, (place.g == 3 ? 0.42 : 0.2) * stripe), 1.0);
    return;
  }
  float at = centre + (p.y - size.y * 0.5) / cell.y + 0.5;
  int k = int(floor(at)) - place.r + radius;
  if (k < 0 || k > 2 * radius) return;
  float value = texelFetch(cells, ivec2(slot, k), 0).r;
  float above = clamp((abs(value) - low) / (top - low), 0.0, 1.0);
  float strength = log(1.0 + gain * above) / log(1.0 + gain);
  float t = diverging == 1 ? 0.5 + 0.5 * sign(value) * strength : strength;
  vec3 shade = texture(colours, vec2((t * 255.0 + 0.5) / 256.0, 0.5)).rgb;
  float edge = cell.y >= 7.0 ? step(fract(at) * cell.y, 1.0) : 0.0;
  colour = vec4(mix(shade, background, 0.2 * edge), 1.0);
}`;

function program(gl) {
  const made = gl.createProgram();
  for (const [type, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(type);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
  return made;
}

export class Heatmap {
  constructor(canvas) {
    this.canvas = canvas;
    const gl = (this.gl = canvas.getContext("webgl2", { antialias: false, alpha: false, preserveDrawingBuffer: true }));
    if (!gl) throw new Error("This browser does not offer WebGL2.");
    this.program = program(gl);
    this.uniforms = {};
    const n = gl.getProgramParameter(this.program, gl.ACTIVE_UNIFORMS);
    for (let i = 0; i < n; i += 1) { const { name } = gl.getActiveUniform(this.program, i); this.uniforms[name] = gl.getUniformLocation(this.program, name); }
    gl.bindVertexArray(gl.createVertexArray());
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    this.textures = [0, 1, 2].map((unit) => this.texture(unit, unit === 2 ? gl.LINEAR : gl.NEAREST));
    this.radius = 0;
    this.uploads = 0;
  }

  texture(unit, filter) {
    const gl = this.gl, texture = gl.createTexture();
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    for (const side of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, side, filter);
    for (const axis of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, axis, gl.CLAMP_TO_EDGE);
    return texture;
  }

  allocate(radius) {
    const gl = this.gl;
    this.radius = radius;
    this.scratch = new Float32Array(2 * radius + 1);
    gl.activeTexture(gl.TEXTURE0);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.R32F, WIDTH, 2 * radius + 1, 0, gl.RED, gl.FLOAT, null);
    gl.activeTexture(gl.TEXTURE1);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RG32I, WIDTH, 1, 0, gl.RG_INTEGER, gl.INT, null);
  }

  setColours(diverging, theme) {
    const gl = this.gl;
    this.diverging = diverging;
    gl.activeTexture(gl.TEXTURE2);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, colourTable(diverging, theme));
  }

  /** Upload column n of the history, as the field shows it. */
  upload(history, field, n) {
    const gl = this.gl, slot = n % WIDTH, column = history.column(n);
    if (history.radius !== this.radius) this.allocate(history.radius);
    const vectors = history.at(n);
    for (let i = 0; i < this.scratch.length; i += 1) this.scratch[i] = field.at(vectors, i);
    gl.activeTexture(gl.TEXTURE0);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, slot, 0, 1, this.scratch.length, gl.RED, gl.FLOAT, this.scratch);
    gl.activeTexture(gl.TEXTURE1);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, slot, 0, 1, 1, gl.RG_INTEGER, gl.INT, new Int32Array([column.spot - history.origin, column.kind]));
    this.uploads += 1;
  }

  /** Draw; `view` in device pixels: {width, height, columnPx, tickPx, right, centre, low, top, gain, background, hatch}. */
  draw(history, view) {
    const gl = this.gl, u = this.uniforms;
    if (this.canvas.width !== view.width || this.canvas.height !== view.height) { this.canvas.width = view.width; this.canvas.height = view.height; }
    gl.viewport(0, 0, view.width, view.height);
    gl.useProgram(this.program);
    gl.uniform1i(u.cells, 0); gl.uniform1i(u.places, 1); gl.uniform1i(u.colours, 2);
    gl.uniform2f(u.size, view.width, view.height);
    gl.uniform2f(u.cell, view.columnPx, view.tickPx);
    gl.uniform1f(u.right, view.right); gl.uniform1f(u.centre, view.centre - history.origin);
    gl.uniform1f(u.low, view.low); gl.uniform1f(u.top, view.top); gl.uniform1f(u.gain, view.gain);
    gl.uniform1i(u.head, history.count); gl.uniform1i(u.tail, history.first());
    gl.uniform1i(u.radius, this.radius); gl.uniform1i(u.width, WIDTH); gl.uniform1i(u.diverging, this.diverging ? 1 : 0);
    gl.uniform3fv(u.background, view.background); gl.uniform3fv(u.hatch, view.hatch);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  /** FNV-1a over the drawn pixels: two pictures that look different have different sums. */
  checksum() {
    const gl = this.gl, pixels = new Uint8Array(this.canvas.width * this.canvas.height * 4);
    gl.readPixels(0, 0, this.canvas.width, this.canvas.height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
    let hash = 0x811c9dc5;
    for (let i = 0; i < pixels.length; i += 1) hash = Math.imul(hash ^ pixels[i], 0x01000193);
    return hash >>> 0;
  }
}
