#include "vmm/guest_consoles.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace quire {

std::function<void(absl::string_view)> GuestConsoles::For(const std::string& guest) {
  return [this, guest](absl::string_view bytes) { Write(guest, bytes); };
}

void GuestConsoles::Write(const std::string& guest, absl::string_view bytes) {
  absl::MutexLock lock(&lock_);
  std::string& line = unfinished_[guest];
  for (const char c : bytes) {
    if (c == '\n' || line.size() == kLongestLine) EndLine(guest, line);
    // A guest does not get to move the user's cursor about.
    const bool printable = c == '\t' || (static_cast<unsigned char>(c) >= ' ' && c != '\x7f');
    if (printable) line.push_back(c);
  }
}

void GuestConsoles::EndLine(const std::string& guest, std::string& line) {
  if (lines_.size() < kMostLines) {
    lines_.push_back(absl::StrCat(guest, ": ", line));
  } else {
    ++dropped_;
  }
  line.clear();
}

void GuestConsoles::Flush(ProgressSink& sink, bool end) {
  std::vector<std::string> lines;
  {
    absl::MutexLock lock(&lock_);
    for (auto& [guest, line] : unfinished_) {
      if (end && !line.empty()) EndLine(guest, line);
    }
    lines.swap(lines_);
    if (dropped_ > 0) lines.push_back(absl::StrCat("(", std::exchange(dropped_, 0), " more lines were not shown)"));
  }
  for (const std::string& line : lines) sink.ShowLine(line);
}

}  // namespace quire
