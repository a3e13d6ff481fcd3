// JSON whose whole numbers keep all their digits: ids of chats have more than a JavaScript number holds.

const big = (_, value, { source } = {}) => typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value) && /^-?\d+$/.test(source ?? "") ? BigInt(source) : value;
const raw = (_, value) => typeof value === "bigint" ? JSON.rawJSON(String(value)) : value;

export const parse = (text) => JSON.parse(text, big);
export const write = (value, indent) => JSON.stringify(value, raw, indent);
