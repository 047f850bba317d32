#include "vmm/baseline/journal.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "vmm/baseline/setting.h"

namespace quire {
namespace {

// Far more than there are changes: of a longer file the rest is left out.
constexpr size_t kLongest = size_t{1} << 20;

std::string BootId() { return ReadSetting("/proc/sys/kernel/random/boot_id").value_or(""); }

// When a process was started, in ticks since the host was: with its number, what tells it from all others. 0: there is
// no such process, or only what is left of it (a zombie).
uint64_t StartOf(pid_t process) {
  const absl::StatusOr<std::string> stat = ReadSetting(absl::StrCat("/proc/", process, "/stat"));
  if (!stat.ok()) return 0;
  // The second field is a name in brackets, which may hold anything.
  const std::vector<absl::string_view> fields =
      absl::StrSplit(absl::string_view(*stat).substr(stat->rfind(')') + 1), ' ', absl::SkipEmpty());
  uint64_t start = 0;
  if (fields.size() < 20 || fields[0] == "Z" || fields[0] == "X" || !absl::SimpleAtoi(fields[19], &start)) return 0;
  return start;
}

std::string ReadAll(int fd) {
  std::string text(kLongest, '\0');
  const ssize_t length = pread(fd, text.data(), text.size(), 0);
  text.resize(length < 0 ? 0 : static_cast<size_t>(length));
  return text;
}

struct FirstLine {
  std::string boot;
  pid_t process = 0;
  uint64_t started = 0;
};

FirstLine ParseFirstLine(absl::string_view line) {
  const auto json = nlohmann::json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
  FirstLine first;
  if (!json.is_object()) return first;
  if (const auto it = json.find("boot"); it != json.end() && it->is_string()) first.boot = it->get<std::string>();
  if (const auto it = json.find("process"); it != json.end() && it->is_number()) first.process = it->get<pid_t>();
  if (const auto it = json.find("started"); it != json.end() && it->is_number()) first.started = it->get<uint64_t>();
  return first;
}

std::string FirstLineOfThis() {
  const nlohmann::json json = {{"boot", BootId()}, {"process", getpid()}, {"started", StartOf(getpid())}};
  return json.dump() + "\n";
}

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
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("make ", path));
  if (!Lock(fd.get(), LOCK_EX | LOCK_NB)) return absl::InternalError(absl::StrCat(path, " is new, and yet locked"));
  Journal journal(std::move(fd), path);
  journal.process_ = getpid();
  if (absl::Status status = journal.Append(FirstLineOfThis()); !status.ok()) {
    journal.Remove();
    return status;
  }
  return journal;
}

absl::StatusOr<Journal> Journal::Read(UniqueFd fd, const std::string& path, std::ostream& err) {
  Journal journal(std::move(fd), path);
  const std::string text = ReadAll(journal.fd_.get());
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const absl::string_view line = absl::string_view(text).substr(begin, end - begin);
    journal.end_ = static_cast<off_t>(end + 1);
    if (begin == 0) {
      journal.ReadFirstLine(line);
      continue;
    }
    absl::StatusOr<Undo> undo = ParseUndo(line);
    if (!undo.ok()) {
      err << "quire: a line of " << path << " is passed over: " << undo.status().message() << std::endl;
      continue;
    }
    journal.records_.push_back(*std::move(undo));
    journal.begins_.push_back(static_cast<off_t>(begin));
  }
  return journal;
}

void Journal::ReadFirstLine(absl::string_view line) {
  const FirstLine first = ParseFirstLine(line);
  process_ = first.process;
  outdated_ = !first.boot.empty() && first.boot != BootId();
}

absl::Status Journal::Append(const std::string& line) {
  errno = ENOSPC;  // if no more than a part can be written
  if (pwrite(fd_.get(), line.data(), line.size(), end_) == static_cast<ssize_t>(line.size()) && fsync(fd_.get()) == 0) {
    end_ += static_cast<off_t>(line.size());
    return absl::OkStatus();
  }
  absl::Status status = absl::ErrnoToStatus(errno, absl::StrCat("write to ", path_));
  (void)!ftruncate(fd_.get(), end_);
  return status;
}

absl::Status Journal::Add(const Undo& undo) {
  const off_t begin = end_;
  if (absl::Status status = Append(ToLine(undo)); !status.ok()) return status;
  records_.push_back(undo);
  begins_.push_back(begin);
  return absl::OkStatus();
}

absl::Status Journal::DropLast(size_t count) {
  for (; count > 0 && !records_.empty(); --count) {
    end_ = begins_.back();
    begins_.pop_back();
    records_.pop_back();
  }
  if (ftruncate(fd_.get(), end_) != 0 || fsync(fd_.get()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("shorten ", path_));
  }
  return absl::OkStatus();
}

void Journal::Remove() {
  unlink(path_.c_str());
  // A child that has been forked has the descriptor as well: closing it here would not be enough.
  if (fd_.valid()) flock(fd_.get(), LOCK_UN);
  fd_.reset();
}

bool IsOwnerAlive(int fd) {
  const std::string text = ReadAll(fd);
  const FirstLine first = ParseFirstLine(absl::string_view(text).substr(0, text.find('\n')));
  return first.process > 0 && first.started != 0 && StartOf(first.process) == first.started;
}

bool Lock(int fd, int operation) {
  int result;
  while ((result = flock(fd, operation)) != 0 && errno == EINTR) {
  }
  return result == 0;
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
