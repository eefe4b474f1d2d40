/** JPEG files of four inks, which libvips converts by a color profile of its own, and Pillow by a formula. */

/** Whether the frame has four components. Format: ITU-T T.81, annex B. */
export function isCmykJpeg(bytes: Uint8Array): boolean {
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return false;
  for (let at = 2; bytes[at] === 0xff; ) {
    const marker = bytes[at + 1]!;
    // A marker may be preceded by any number of bytes 0xff.
    if (marker === 0xff) {
      at++;
      continue;
    }
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame) return bytes[at + 9] === 4;
    at += 2 + bytes[at + 2]! * 256 + bytes[at + 3]!;
  }
  return false;
}

/** As Pillow's `convert('RGB')`, bit for bit. */
export function cmykToRgb(inks: Uint8Array): Uint8Array {
  const out = new Uint8Array((inks.length / 4) * 3);
  for (let p = 0, at = 0; p < inks.length; p += 4) {
    const light = 255 - inks[p + 3]!;
    for (let i = 0; i < 3; i++) {
      const product = inks[p + i]! * light + 128;
      out[at++] = light - (((product >> 8) + product) >> 8);
    }
  }
  return out;
}
