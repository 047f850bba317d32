#include "vmm/results/html.h"

#include <cstddef>
#include <cstdint>

#include "absl/strings/str_replace.h"

namespace quire::results {
namespace {

constexpr absl::string_view kReplacement = "\xef\xbf\xbd";

// The length of the character that `text` begins with, and its code point; a length of 0 if it is no UTF-8.
struct Character {
  size_t length;
  uint32_t code;
};
Character FirstCharacter(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(0) < 0x80) return {1, byte(0)};
  const size_t length = byte(0) >= 0xf0 ? 4 : byte(0) >= 0xe0 ? 3 : 2;
  if (byte(0) < 0xc2 || byte(0) > 0xf4 || text.size() < length) return {0, 0};
  uint32_t code = byte(0) & (0xff >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {0, 0};
    code = code << 6 | (byte(i) & 0x3f);
  }
  const bool overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
  const bool none = (code >= 0xd800 && code < 0xe000) || code > 0x10ffff;
  return overlong || none ? Character{0, 0} : Character{length, code};
}

bool Allowed(uint32_t code) {
  if (code < 0x20) return code == '\n' || code == '\t';
  const bool control = code >= 0x7f && code < 0xa0;
  const bool turns = (code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
  return !control && !turns && (code & 0xfffe) != 0xfffe;
}

absl::string_view Entity(char c) {
  switch (c) {
    case '&':
      return "&amp;";
    case '<':
      return "&lt;";
    case '>':
      return "&gt;";
    case '"':
      return "&quot;";
    case '\'':
      return "&#39;";
    default:
      return "";
  }
}

}  // namespace

std::string EscapeHtml(absl::string_view text) {
  std::string escaped;
  escaped.reserve(text.size() + text.size() / 8);
  while (!text.empty()) {
    const Character character = FirstCharacter(text);
    const absl::string_view entity = Entity(text[0]);
    if (character.length == 0 || !Allowed(character.code)) {
      escaped.append(kReplacement.data(), kReplacement.size());
    } else if (!entity.empty()) {
      escaped.append(entity.data(), entity.size());
    } else {
      escaped.append(text.data(), character.length);
    }
    text.remove_prefix(character.length == 0 ? 1 : character.length);
  }
  return escaped;
}

std::string EscapeJsonInHtml(absl::string_view json) {
  return absl::StrReplaceAll(json, {{"<", "\\u003c"}, {">", "\\u003e"}, {"&", "\\u0026"}});
}

}  // namespace quire::results
