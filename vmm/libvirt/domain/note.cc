#include "vmm/libvirt/domain/note.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "vmm/text.h"

namespace quire {

absl::string_view Name(DomainNote::Kind kind) { return kind == DomainNote::Kind::kIgnored ? "ignored" : "refused"; }

size_t CountRefused(const std::vector<DomainNote>& notes) {
  return static_cast<size_t>(std::count_if(
      notes.begin(), notes.end(), [](const DomainNote& note) { return note.kind == DomainNote::Kind::kRefused; }));
}

std::string NotesText(const std::vector<DomainNote>& notes) {
  std::string text;
  for (const DomainNote::Kind kind : {DomainNote::Kind::kRefused, DomainNote::Kind::kIgnored}) {
    for (const DomainNote& note : notes) {
      if (note.kind != kind) continue;
      const std::string line = note.line == 0 ? "" : absl::StrFormat("line %-4d ", note.line);
      absl::StrAppend(&text, "  ", Name(kind), "  ", line, Printable(note.path), ": ", Printable(note.why), "\n");
    }
  }
  return text;
}

}  // namespace quire
