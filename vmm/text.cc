#include "vmm/text.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace quire {
namespace {

struct Unit {
  char letter;
  int shift;
};
constexpr std::array<Unit, 4> kUnits = {{{'T', 40}, {'G', 30}, {'M', 20}, {'K', 10}}};

// Removes the unit from the end of `text` and returns its shift: 0 where there is none.
int ConsumeUnit(absl::string_view* text) {
  absl::string_view rest = *text;
  absl::ConsumeSuffix(&rest, "iB");
  if (rest.empty()) return 0;
  for (const Unit& unit : kUnits) {
    if (absl::ascii_toupper(static_cast<unsigned char>(rest.back())) != unit.letter) continue;
    rest.remove_suffix(1);
    *text = rest;
    return unit.shift;
  }
  return 0;
}

bool AllDigits(absl::string_view text) { return std::all_of(text.begin(), text.end(), absl::ascii_isdigit); }

// `digits` after the decimal point, times 2^shift; nothing if that is not a whole number.
std::optional<uint64_t> FractionOf(absl::string_view digits, int shift) {
  // Twelve digits times 2^40 fit into the 128 bits below; nobody needs more.
  if (digits.empty() || digits.size() > 12 || !AllDigits(digits)) return std::nullopt;
  unsigned __int128 numerator = 0;
  unsigned __int128 denominator = 1;
  for (char digit : digits) {
    numerator = numerator * 10 + static_cast<unsigned>(digit - '0');
    denominator *= 10;
  }
  numerator <<= shift;
  if (numerator % denominator != 0) return std::nullopt;
  return static_cast<uint64_t>(numerator / denominator);
}

// Trailing zeros after a decimal point say nothing.
std::string DropZeros(std::string number) {
  if (!absl::StrContains(number, '.')) return number;
  number.erase(number.find_last_not_of('0') + 1);
  if (number.back() == '.') number.pop_back();
  return number;
}

// About three significant digits.
std::string ThreeDigits(double value) {
  return DropZeros(absl::StrFormat("%.*f", value < 10 ? 2 : value < 100 ? 1 : 0, value));
}

// Edits (insert, delete, replace, exchange neighbours) between two words.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

}  // namespace

std::optional<ByteCount> ParseSize(absl::string_view text) {
  const int shift = ConsumeUnit(&text);
  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(text, absl::MaxSplits('.', 1));
  uint64_t whole = 0;
  if (parts.first.empty() || !AllDigits(parts.first) || !absl::SimpleAtoi(parts.first, &whole)) return std::nullopt;
  if (whole > std::numeric_limits<uint64_t>::max() >> shift) return std::nullopt;
  uint64_t bytes = whole << shift;
  if (parts.first.size() < text.size()) {
    const std::optional<uint64_t> fraction = FractionOf(parts.second, shift);
    if (!fraction) return std::nullopt;
    bytes += *fraction;  // less than one unit, and the low `shift` bits of `bytes` are free
  }
  return ByteCount::Bytes(bytes);
}

std::string SizeToFlag(ByteCount size) {
  for (const Unit& unit : kUnits) {
    const uint64_t whole = size.in_bytes() >> unit.shift;
    if (whole != 0 && whole << unit.shift == size.in_bytes()) return absl::StrCat(whole, std::string(1, unit.letter));
  }
  return absl::StrCat(size.in_bytes());
}

std::string FormatSize(ByteCount size) {
  for (const Unit& unit : kUnits) {
    const double value = static_cast<double>(size.in_bytes()) / static_cast<double>(uint64_t{1} << unit.shift);
    if (value >= 1) return absl::StrCat(ThreeDigits(value), " ", std::string(1, unit.letter), "iB");
  }
  return Plural(size.in_bytes(), "byte");
}

std::string FormatCount(uint64_t n) {
  std::string digits = absl::StrCat(n);
  for (size_t i = digits.size(); i > 3; i -= 3) digits.insert(i - 3, 1, ',');
  return digits;
}

std::string FormatShort(double n) {
  static constexpr std::array<std::pair<double, const char*>, 3> kScales = {{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}}};
  for (const auto& [scale, letter] : kScales) {
    if (n >= scale) return absl::StrCat(ThreeDigits(n / scale), letter);
  }
  return absl::StrFormat("%.0f", n);
}

std::string Plural(uint64_t n, absl::string_view noun) {
  return absl::StrCat(FormatCount(n), " ", noun, n == 1 ? "" : "s");
}

std::string Sentence(absl::string_view text) {
  const bool ended = absl::EndsWith(text, ".") || absl::EndsWith(text, "?");
  return absl::StrCat(text, ended ? "" : ".");
}

std::string Printable(absl::string_view text) {
  std::string printable;
  for (const char& c : text) {
    const bool control = static_cast<unsigned char>(c) < ' ' || c == '\x7f';
    absl::StrAppend(&printable, control ? absl::CHexEscape(absl::string_view(&c, 1)) : std::string(1, c));
  }
  return printable;
}

std::string Nearest(absl::string_view word, const std::vector<std::string>& candidates) {
  size_t best = word.size() <= 4 ? 2 : 3;  // one typing error in a short word, two in a longer one
  std::string nearest;
  for (const std::string& candidate : candidates) {
    const bool begun = word.size() >= 3 && absl::StartsWith(candidate, word);
    const size_t distance = begun ? 1 : EditDistance(word, candidate);
    if (distance >= best) continue;
    best = distance;
    nearest = candidate;
  }
  return nearest;
}

std::string Wrap(absl::string_view text, size_t width, size_t indent) {
  std::string out;
  size_t column = indent;
  for (absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    if (column > indent && column + 1 + word.size() > width) {
      absl::StrAppend(&out, "\n", std::string(indent, ' '));
      column = indent;
    }
    if (column > indent) {
      out += ' ';
      ++column;
    }
    absl::StrAppend(&out, word);
    column += word.size();
  }
  return out;
}

}  // namespace quire
