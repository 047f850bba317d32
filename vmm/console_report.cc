#include "vmm/console_report.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"

namespace quire {
namespace {

constexpr absl::string_view kMark = "quire: ";
constexpr absl::string_view kKeyOfSentences = "why";

bool IsKey(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_islower(static_cast<unsigned char>(c)) || absl::ascii_isdigit(static_cast<unsigned char>(c)) ||
           c == '_';
  });
}

char Printable(char c) {
  if (c == '\t') return ' ';
  return absl::ascii_isprint(static_cast<unsigned char>(c)) ? c : '?';
}

}  // namespace

void ConsoleReport::Add(absl::string_view bytes) {
  for (const char c : bytes) {
    if (c == '\n' || c == '\r') {
      EndLine();
    } else if (line_.size() <= kLongestLine) {
      line_.push_back(Printable(c));
    }
  }
}

absl::string_view ConsoleReport::Get(absl::string_view key) const {
  const auto found = values_.find(std::string(key));
  return found == values_.end() ? absl::string_view() : absl::string_view(found->second);
}

uint64_t ConsoleReport::operations() const {
  uint64_t operations = 0;
  return absl::SimpleAtoi(Get("operations"), &operations) ? operations : 0;
}

void ConsoleReport::EndLine() {
  const size_t mark = line_.rfind(kMark.data(), std::string::npos, kMark.size());
  if (mark != std::string::npos) {
    if (line_.size() > kLongestLine) {
      ++dropped_;
    } else {
      AddWords(absl::string_view(line_).substr(mark + kMark.size()));
    }
  }
  line_.clear();
}

void ConsoleReport::AddWords(absl::string_view words) {
  while (true) {
    words = absl::StripAsciiWhitespace(words);
    if (words.empty()) return;
    const size_t end = std::min(words.find(' '), words.size());
    const size_t equals = words.find('=');
    if (equals < end && IsKey(words.substr(0, equals))) {
      const absl::string_view key = words.substr(0, equals);
      const bool sentence = key == kKeyOfSentences;
      Set(key, words.substr(equals + 1, sentence ? absl::string_view::npos : end - equals - 1));
      if (sentence) return;
    }
    words.remove_prefix(end);
  }
}

void ConsoleReport::Set(absl::string_view key, absl::string_view value) {
  const auto found = key.size() <= kLongestKey ? values_.find(std::string(key)) : values_.end();
  const bool has_room = key.size() <= kLongestKey && (found != values_.end() || values_.size() < kMostKeys);
  if (!has_room || value.size() > kLongestValue) {
    ++dropped_;
    return;
  }
  if (found != values_.end()) {
    found->second = std::string(value);
  } else {
    values_.emplace(key, value);
  }
}

}  // namespace quire
