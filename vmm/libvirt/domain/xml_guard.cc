#include "vmm/libvirt/domain/xml_guard.h"

#include <array>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace quire {
namespace {

// XML 1.0, production 2: Char.
bool IsXmlCharacter(uint32_t c) {
  if (c < 0x20) return c == '\t' || c == '\n' || c == '\r';
  return c < 0xd800 || (c >= 0xe000 && c <= 0xfffd) || (c >= 0x10000 && c <= 0x10ffff);
}

// A character in UTF-8 at the beginning of `text`, which is not empty. Length 0: there is none.
struct Utf8Character {
  uint32_t value = 0;
  size_t length = 0;
};
Utf8Character ReadUtf8(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  if (byte(0) < 0x80) return {byte(0), 1};
  const size_t length = byte(0) >= 0xf0 ? 4 : byte(0) >= 0xe0 ? 3 : 2;
  if (byte(0) < 0xc2 || byte(0) > 0xf4 || text.size() < length) return {};
  uint32_t value = byte(0) & (0xffu >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {};
    value = value << 6 | (byte(i) & 0x3f);
  }
  constexpr std::array<uint32_t, 5> kLeast = {0, 0, 0x80, 0x800, 0x10000};  // what is less has a shorter form
  return value < kLeast[length] ? Utf8Character{} : Utf8Character{value, length};
}

std::optional<XmlFault> FindForeignCharacter(absl::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Character c = ReadUtf8(text.substr(at));
    if (c.length == 0) return XmlFault{at, "this is no UTF-8: convert the file, as by iconv"};
    if (!IsXmlCharacter(c.value)) {
      return XmlFault{at, absl::StrCat("the character U+", absl::Hex(c.value, absl::kZeroPad4), " is none of XML's")};
    }
    at += c.length;
  }
  return std::nullopt;
}

// Whether "#38" or "#x26" names a character.
bool NamesCharacter(absl::string_view name) {
  if (!absl::ConsumePrefix(&name, "#")) return false;
  const uint32_t base = absl::ConsumePrefix(&name, "x") ? 16 : 10;
  uint32_t value = 0;
  for (const char c : name) {
    const auto digit = static_cast<unsigned char>(c);
    if (base == 16 ? !absl::ascii_isxdigit(digit) : !absl::ascii_isdigit(digit)) return false;
    value = value * base +
            static_cast<uint32_t>(absl::ascii_isdigit(digit) ? c - '0' : absl::ascii_tolower(digit) - 'a' + 10);
    if (value > 0x10ffff) return false;
  }
  return !name.empty() && IsXmlCharacter(value);
}

bool IsReference(absl::string_view name) {
  for (const absl::string_view own : {"lt", "gt", "amp", "quot", "apos"}) {
    if (name == own) return true;
  }
  return NamesCharacter(name);
}

// Goes through markup once, without looking at names.
class Scanner {
 public:
  explicit Scanner(absl::string_view text) : text_(text) {}

  std::optional<XmlFault> Scan() {
    absl::string_view bom = text_;
    if (absl::ConsumePrefix(&bom, "\xef\xbb\xbf")) at_ = 3;
    while (at_ < text_.size() && !fault_.has_value()) Step();
    return fault_;
  }

 private:
  void Step() {
    const absl::string_view rest = text_.substr(at_);
    if (rest[0] == '&') return Reference();
    if (rest[0] != '<') return Text();
    if (absl::StartsWith(rest, "<!--")) return Skip(4, "-->");
    if (absl::StartsWith(rest, "<?")) return Skip(2, "?>");
    if (absl::StartsWith(rest, "<![CDATA[")) return depth_ == 0 ? Outside() : Skip(9, "]]>");
    if (absl::StartsWith(rest, "<!")) {
      return Fault(
          "it has a document type (<!DOCTYPE>) or a declaration of one, which a domain has no use for: take it out");
    }
    Tag();
  }

  void Text() {
    if (depth_ == 0 && !absl::ascii_isspace(static_cast<unsigned char>(text_[at_]))) return Outside();
    ++at_;
  }

  void Reference() {
    if (depth_ == 0 && !in_tag_) return Outside();
    constexpr size_t kLongest = 12;
    const absl::string_view name = text_.substr(at_ + 1, kLongest);
    const size_t end = name.find(';');
    if (end != absl::string_view::npos && IsReference(name.substr(0, end))) {
      at_ += end + 2;
      return;
    }
    const std::string shown = absl::Utf8SafeCHexEscape(name.substr(0, name.find_first_of("; <\"'\n")));
    Fault(absl::StrCat("\"&", shown, "\" is no entity of XML's and no character: write &amp; for the sign itself"));
  }

  void Tag() {
    const bool closes = absl::StartsWith(text_.substr(at_), "</");
    const size_t begin = at_++;
    in_tag_ = true;
    char quote = 0;
    while (at_ < text_.size() && !fault_.has_value()) {
      const char c = text_[at_];
      if (quote == 0 && c == '>') break;
      if (c == '<') return Fault(quote == 0 ? "a tag begins within a tag" : "a value has a \"<\" in it: write &lt;");
      if (c == '&') {
        Reference();
        continue;
      }
      if (quote == 0 && (c == '"' || c == '\'')) {
        quote = c;
      } else if (c == quote) {
        quote = 0;
      }
      ++at_;
    }
    in_tag_ = false;
    if (fault_.has_value()) return;
    if (at_ == text_.size()) return Fault("a tag does not end", begin);
    if (closes) {
      --depth_;
    } else if (text_[at_ - 1] != '/') {
      ++depth_;
    }
    ++at_;
  }

  void Skip(size_t begin, absl::string_view end) {
    const size_t found = text_.find(end, at_ + begin);
    if (found == absl::string_view::npos) return Fault(absl::StrCat("there is no \"", end, "\" to end this"));
    at_ = found + end.size();
  }

  void Outside() { Fault("there is text outside of the root element"); }
  void Fault(absl::string_view sentence) { Fault(sentence, at_); }
  void Fault(absl::string_view sentence, size_t at) { fault_ = XmlFault{at, std::string(sentence)}; }

  const absl::string_view text_;
  size_t at_ = 0;
  int64_t depth_ = 0;  // that of tags which do not fit is nobody's
  bool in_tag_ = false;
  std::optional<XmlFault> fault_;
};

}  // namespace

std::optional<XmlFault> FindXmlFault(absl::string_view text) {
  const std::optional<XmlFault> foreign = FindForeignCharacter(text);
  return foreign.has_value() ? foreign : Scanner(text).Scan();
}

}  // namespace quire
