/** Documents as samples: cut into windows, which are padded, or packed with others into a row. */
import type { Windows } from '../../../passes/recipe/recipe.js';

/** A window of a document: tokens `from` to `from + count`, each of which predicts the next one. */
type Piece = { document: number; from: number; count: number };

/**
 * The rows of `length` places for one input, as `windows` says: tokens, the next tokens (`shift` 1), or the numbers of the
 * windows in a row. All inputs of a sample are laid out alike.
 */
export function layOutDocuments(
  documents: readonly (readonly number[])[],
  { length, shift, documents: layout }: Windows,
  isPacked: boolean,
): Float64Array {
  const pieces = piecesOf(documents, length);
  const rows = isPacked ? packed(pieces, length) : pieces.map(piece => [piece]);
  const { fill, segments } = layout!;
  const out = new Float64Array(rows.length * length).fill(fill);
  for (const [r, row] of rows.entries()) {
    let at = r * length;
    for (const [i, { document, from, count }] of row.entries())
      for (let j = 0; j < count; j++) out[at++] = segments ? i + 1 : documents[document]![from + shift + j]!;
  }
  return out;
}

/** Of a document of n tokens, the first n - 1 predict one. */
function piecesOf(documents: readonly (readonly number[])[], length: number): Piece[] {
  return documents.flatMap((tokens, document) => {
    const count = Math.ceil((tokens.length - 1) / length);
    return Array.from({ length: Math.max(0, count) }, (_, i) => ({
      document,
      from: i * length,
      count: Math.min(length, tokens.length - 1 - i * length),
    }));
  });
}

/** Best fit, the longest first: each piece goes into the fullest row that has room for it. */
function packed(pieces: readonly Piece[], length: number): Piece[][] {
  const rows: Piece[][] = [];
  const open: Piece[][][] = Array.from({ length: length + 1 }, () => []);
  for (const piece of pieces.toSorted((a, b) => b.count - a.count)) {
    let room = piece.count;
    while (room <= length && !open[room]!.length) room++;
    let row = open[room]?.pop();
    if (!row) {
      row = [];
      rows.push(row);
      room = length;
    }
    row.push(piece);
    open[room - piece.count]!.push(row);
  }
  return rows;
}
