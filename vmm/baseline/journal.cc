#include "vmm/baseline/journal.h"

#include "absl/strings/strip.h"

namespace quire {
namespace {

void Say(const absl::Status& status, const Undo& undo, std::ostream& err) {
  if (status.ok()) return;
  err << "quire: a change of this host could not be undone, and stays until somebody sees to it that " << Describe(undo)
      << ": " << status.message() << std::endl;
}

// How many of the last records are undone together: a zram device has one for all that may be it, from before its
// number was known, and one for itself.
size_t CountTogether(const std::vector<Undo>& records, size_t first) {
  return records.size() >= first + 2 && records.back().kind == Undo::Kind::kRemoveZram &&
                 records[records.size() - 2].kind == Undo::Kind::kRemoveNewZrams
             ? 2
             : 1;
}

}  // namespace

absl::StatusOr<Journal> Journal::Create(const std::string& path) {
  absl::StatusOr<JournalFile> file = JournalFile::Create(path);
  if (!file.ok()) return file.status();
  return Journal(*std::move(file));
}

absl::StatusOr<Journal> Journal::Read(UniqueFd fd, const std::string& path, std::ostream& err) {
  Journal journal(JournalFile::Read(std::move(fd), path));
  for (size_t i = 0; i < journal.file_.lines().size(); ++i) {
    absl::StatusOr<Undo> undo = ParseUndo(journal.file_.lines()[i]);
    if (!undo.ok()) {
      err << "quire: a line of " << path << " is passed over: " << undo.status().message() << std::endl;
      continue;
    }
    journal.records_.push_back(*std::move(undo));
    journal.at_.push_back(i);
  }
  return journal;
}

absl::Status Journal::Add(const Undo& undo) {
  const size_t at = file_.lines().size();
  const std::string line = ToLine(undo);
  if (absl::Status status = file_.Add(absl::StripSuffix(line, "\n")); !status.ok()) return status;
  records_.push_back(undo);
  at_.push_back(at);
  return absl::OkStatus();
}

absl::Status Journal::DropLast(size_t count) {
  size_t keep = file_.lines().size();
  for (; count > 0 && !records_.empty(); --count) {
    keep = at_.back();
    at_.pop_back();
    records_.pop_back();
  }
  return file_.Keep(keep);
}

void PlayBack(Journal& journal, size_t first, const SwapCalls& swap, std::ostream& err,
              const std::function<void()>& at_step) {
  const auto step = [&] {
    if (at_step) at_step();
  };
  for (const Undo& undo : journal.records()) {
    if (first == 0 && undo.kind == Undo::Kind::kRemoveCgroup) Say(KillAllIn(undo.target), undo, err);
  }
  while (journal.records().size() > first) {
    step();
    const Undo undo = journal.records().back();
    Say(Apply(undo, swap), undo, err);
    step();
    if (absl::Status s = journal.DropLast(CountTogether(journal.records(), first)); !s.ok()) {
      err << "quire: " << s.message() << std::endl;
    }
  }
}

}  // namespace quire
