#include "vmm/baseline/journal_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <filesystem>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "nlohmann/json.hpp"
#include "vmm/baseline/setting.h"

namespace quire {
namespace {

// Far more than there are changes: of a longer file the rest is left out.
constexpr size_t kLongest = size_t{1} << 20;

// How long a janitor may take: its process had memory in swap space, and some gigabytes take seconds to be freed.
constexpr absl::Duration kPatience = absl::Minutes(2);
constexpr absl::Duration kLookEvery = absl::Milliseconds(10);

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

// Whether only this user can write to it.
bool IsOwn(const struct stat& found) { return found.st_uid == geteuid() && (found.st_mode & (S_IWGRP | S_IWOTH)) == 0; }

}  // namespace

absl::StatusOr<JournalFile> JournalFile::Create(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("make ", path));
  if (!Lock(fd.get(), LOCK_EX | LOCK_NB)) return absl::InternalError(absl::StrCat(path, " is new, and yet locked"));
  JournalFile journal(std::move(fd), path);
  journal.process_ = getpid();
  if (absl::Status status = journal.Append(FirstLineOfThis()); !status.ok()) {
    journal.Remove();
    return status;
  }
  return journal;
}

JournalFile JournalFile::Read(UniqueFd fd, const std::string& path) {
  JournalFile journal(std::move(fd), path);
  const std::string text = ReadAll(journal.fd_.get());
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const absl::string_view line = absl::string_view(text).substr(begin, end - begin);
    journal.end_ = static_cast<off_t>(end + 1);
    if (begin == 0) {
      journal.ReadFirstLine(line);
      continue;
    }
    journal.lines_.emplace_back(line);
    journal.begins_.push_back(static_cast<off_t>(begin));
  }
  return journal;
}

void JournalFile::ReadFirstLine(absl::string_view line) {
  const FirstLine first = ParseFirstLine(line);
  process_ = first.process;
  outdated_ = !first.boot.empty() && first.boot != BootId();
}

absl::Status JournalFile::Append(const std::string& text) {
  errno = ENOSPC;  // if no more than a part can be written
  if (pwrite(fd_.get(), text.data(), text.size(), end_) == static_cast<ssize_t>(text.size()) && fsync(fd_.get()) == 0) {
    end_ += static_cast<off_t>(text.size());
    return absl::OkStatus();
  }
  absl::Status status = absl::ErrnoToStatus(errno, absl::StrCat("write to ", path_));
  (void)!ftruncate(fd_.get(), end_);
  return status;
}

absl::Status JournalFile::Add(absl::string_view line) {
  const off_t begin = end_;
  if (absl::Status status = Append(absl::StrCat(line, "\n")); !status.ok()) return status;
  lines_.emplace_back(line);
  begins_.push_back(begin);
  return absl::OkStatus();
}

absl::Status JournalFile::Keep(size_t count) {
  if (count >= lines_.size()) return absl::OkStatus();
  end_ = begins_[count];
  begins_.resize(count);
  lines_.resize(count);
  if (ftruncate(fd_.get(), end_) != 0 || fsync(fd_.get()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("shorten ", path_));
  }
  return absl::OkStatus();
}

absl::Status JournalFile::Rewrite(const std::vector<std::string>& lines) {
  const std::string beside = path_ + ".new";
  unlink(beside.c_str());  // left by a process that was killed at this
  absl::StatusOr<JournalFile> journal = Create(beside);
  if (!journal.ok()) return journal.status();
  absl::Status status;
  for (const std::string& line : lines) {
    if (status.ok()) status = journal->Add(line);
  }
  if (status.ok() && std::rename(beside.c_str(), path_.c_str()) != 0) {
    status = absl::ErrnoToStatus(errno, absl::StrCat("rename ", beside));
  }
  if (!status.ok()) {
    journal->Remove();
    return status;
  }
  const std::string path = path_;
  *this = *std::move(journal);
  path_ = path;
  return absl::OkStatus();
}

void JournalFile::Remove() {
  unlink(path_.c_str());
  // A child that has been forked has the descriptor as well: closing it here would not be enough.
  if (fd_.valid()) flock(fd_.get(), LOCK_UN);
  fd_.reset();
}

absl::StatusOr<UniqueFd> LockJournals(const std::string& directory) {
  mkdir(std::string(std::filesystem::path(directory).parent_path()).c_str(), 0755);
  if (mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    return absl::ErrnoToStatus(errno, absl::StrCat("make ", directory, ", for what is to be undone on this host"));
  }
  UniqueFd fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat found;
  if (!fd.valid() || fstat(fd.get(), &found) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("open ", directory));
  if (!IsOwn(found)) {
    return absl::FailedPreconditionError(
        absl::StrCat(directory,
                     " is not this user's own, or others can write to it, so that what is to be undone on this host "
                     "cannot be kept there: chmod 700 it, or remove it"));
  }
  if (!Lock(fd.get(), LOCK_EX)) return absl::ErrnoToStatus(errno, absl::StrCat("lock ", directory));
  return fd;
}

absl::StatusOr<UniqueFd> OpenLeftBehind(const std::string& path, absl::string_view in_use) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat found;
  if (!fd.valid() && errno == ENOENT) return UniqueFd();
  if (!fd.valid() || fstat(fd.get(), &found) != 0 || !S_ISREG(found.st_mode) || !IsOwn(found)) {
    return absl::PermissionDeniedError(absl::StrCat(path, " is not a file that this user alone can write to"));
  }
  const MonotonicTime end = RealClock().Now() + kPatience;
  while (!Lock(fd.get(), LOCK_EX | LOCK_NB)) {
    if (IsOwnerAlive(fd.get()) || RealClock().Now() > end) {
      return absl::FailedPreconditionError(absl::StrCat(in_use, " (", path, ")"));
    }
    absl::SleepFor(kLookEvery);
  }
  // Its janitor was quicker.
  if (fstat(fd.get(), &found) != 0 || found.st_nlink == 0) return UniqueFd();
  return fd;
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

}  // namespace quire
