#include "vmm/baseline/host_settings.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <iostream>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/unique_fd.h"
#include "vmm/baseline/janitor.h"
#include "vmm/baseline/journal_file.h"
#include "vmm/baseline/setting.h"

namespace quire {
namespace {

constexpr absl::string_view kPrefix = "host-changes.";

absl::Status Recover(const std::string& path, const SwapCalls& swap, std::ostream& err) {
  absl::StatusOr<UniqueFd> fd = OpenLeftBehind(
      path, absl::StrCat("another process has changed settings of this host, and will put them back when it ends: wait "
                         "for process ",
                         absl::StripPrefix(std::filesystem::path(path).filename().native(), kPrefix)));
  if (absl::IsPermissionDenied(fd.status())) {
    err << "quire: " << path << " is passed over: it is not a file that this user alone can write to" << std::endl;
    return absl::OkStatus();
  }
  if (!fd.ok()) return fd.status();
  if (!fd->valid()) return absl::OkStatus();
  absl::StatusOr<Journal> journal = Journal::Read(*std::move(fd), path, err);
  if (!journal.ok()) return journal.status();
  if (!journal->outdated() && !journal->records().empty()) {
    std::vector<std::string> now;
    for (const Undo& undo : journal->records()) now.insert(now.begin(), Describe(undo));
    PlayBack(*journal, 0, swap, err);
    err << "quire: process " << journal->process() << " was killed and had left changes of this host behind, which are "
        << "undone: " << absl::StrJoin(now, ", ") << std::endl;
  }
  journal->Remove();
  return absl::OkStatus();
}

}  // namespace

absl::Status RecoverAll(const std::string& directory, const SwapCalls& swap, std::ostream& err) {
  std::vector<std::string> paths;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    if (absl::StartsWith(entry.path().filename().native(), kPrefix)) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  for (const std::string& path : paths) {
    if (absl::Status status = Recover(path, swap, err); !status.ok()) return status;
  }
  return absl::OkStatus();
}

HostSettings::~HostSettings() {
  // A child that was forked has this object, but not its duties.
  if (!journal_.has_value() || journal_->process() != getpid()) return;
  PutBack(0);
  journal_->Remove();
  while (waitpid(janitor_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

absl::Status HostSettings::Open() {
  if (journal_.has_value()) return absl::OkStatus();
  const std::string directory = absl::StrCat(seams_.root, "/run/quire");
  const absl::StatusOr<UniqueFd> lock = LockJournals(directory);
  if (!lock.ok()) return lock.status();
  return OpenLocked(directory);
}

absl::Status HostSettings::OpenLocked(const std::string& directory) {
  if (absl::Status status = RecoverAll(directory, seams_.swap, std::cerr); !status.ok()) return status;
  absl::StatusOr<Journal> journal = Journal::Create(absl::StrCat(directory, "/", kPrefix, getpid()));
  if (!journal.ok()) return journal.status();
  const absl::StatusOr<pid_t> janitor = StartJanitor(journal->path(), seams_.swap);
  if (!janitor.ok()) {
    journal->Remove();
    return janitor.status();
  }
  journal_ = *std::move(journal);
  janitor_ = *janitor;
  return absl::OkStatus();
}

absl::Status HostSettings::Change(const std::string& path, absl::string_view value) {
  // First, since the setting may be one that a killed process has changed.
  if (absl::Status status = Open(); !status.ok()) return status;
  const absl::StatusOr<std::string> old = ReadSetting(path);
  if (!old.ok()) return old.status();
  if (ChosenOf(*old) == value) return absl::OkStatus();
  return Do({.kind = Undo::Kind::kWrite, .target = path, .value = ChosenOf(*old)},
            [&] { return WriteSetting(path, value); });
}

absl::Status HostSettings::Do(const Undo& undo, absl::FunctionRef<absl::Status()> change) {
  if (absl::Status status = Note(undo); !status.ok()) return status;
  Step();
  if (absl::Status status = change(); !status.ok()) {
    (void)journal_->DropLast();
    return status;
  }
  Step();
  return absl::OkStatus();
}

absl::Status HostSettings::Note(const Undo& undo) {
  if (absl::Status status = Open(); !status.ok()) return status;
  return journal_->Add(undo);
}

void HostSettings::PutBack(size_t mark) {
  if (journal_.has_value()) PlayBack(*journal_, mark, seams_.swap, std::cerr, seams_.at_step);
}

}  // namespace quire
