#include "vmm/baseline/undo.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <set>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/unique_fd.h"
#include "nlohmann/json.hpp"
#include "vmm/baseline/setting.h"

namespace quire {
namespace {

using Kind = Undo::Kind;

constexpr std::pair<Kind, absl::string_view> kNames[] = {
    {Kind::kWrite, "write"},
    {Kind::kSwapOff, "swapoff"},
    {Kind::kResetZram, "reset_zram"},
    {Kind::kRemoveZram, "remove_zram"},
    {Kind::kRemoveNewZrams, "remove_new_zrams"},
    {Kind::kRemoveCgroup, "remove_cgroup"},
};

absl::string_view NameOf(Kind kind) {
  const auto* found = std::find_if(std::begin(kNames), std::end(kNames), [&](auto& k) { return k.first == kind; });
  return found->second;
}

// The kernel keeps a device for a moment after the swap space on it has gone, as others do that look at every new
// device, and a cgroup after its last process has; a process with much memory takes seconds to end.
constexpr absl::Duration kPatience = absl::Seconds(30);
constexpr absl::Duration kTryAgain = absl::Milliseconds(5);

// Calls `attempt` until it is something else than busy.
absl::Status RetryWhileBusy(absl::FunctionRef<absl::Status()> attempt) {
  const MonotonicTime end = RealClock().Now() + kPatience;
  for (;;) {
    absl::Status status = attempt();
    // What EBUSY becomes.
    if (!absl::IsFailedPrecondition(status) || RealClock().Now() > end) return status;
    absl::SleepFor(kTryAgain);
  }
}

// What has gone needs nothing put back.
absl::Status UnlessGone(absl::Status status) { return absl::IsNotFound(status) ? absl::OkStatus() : status; }

absl::Status SwapOff(const std::string& device, const SwapCalls& swap) {
  if (swap.off(device.c_str()) == 0) return absl::OkStatus();
  // EINVAL: there is no swap space on it.
  if (errno == EINVAL || errno == ENOENT) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("swapoff ", device));
}

absl::Status ResetZram(const std::string& zram, absl::string_view size) {
  const absl::StatusOr<std::string> now = ReadSetting(zram + "/disksize");
  if (!now.ok()) return UnlessGone(now.status());
  if (*now != size) return absl::OkStatus();
  return UnlessGone(RetryWhileBusy([&] { return WriteSetting(zram + "/reset", "1"); }));
}

absl::Status HotRemove(const std::string& sysfs, absl::string_view number) {
  const std::string file = sysfs + "/class/zram-control/hot_remove";
  // ENODEV, which is NotFound as well: there is none of that number.
  return UnlessGone(RetryWhileBusy([&] { return WriteSetting(file, number); }));
}

absl::Status RemoveZram(const std::string& zram, absl::string_view sequence) {
  const std::filesystem::path path = zram;
  const absl::StatusOr<std::string> now = ReadSetting(zram + "/diskseq");
  if (!std::filesystem::exists(path)) return absl::OkStatus();
  if (now.ok() && !sequence.empty() && *now != sequence) return absl::OkStatus();
  return HotRemove(path.parent_path().parent_path(), absl::StripPrefix(path.filename().native(), "zram"));
}

// Of a device that was being made, nobody knows the number: it is the one that is new and that nobody has set up.
absl::Status RemoveNewZrams(const std::string& sysfs, absl::string_view before) {
  const std::set<std::string> old = absl::StrSplit(before, ',');
  const std::set<std::string> all = absl::StrSplit(ZramsIn(sysfs + "/block"), ',', absl::SkipEmpty());
  std::vector<std::string> made;
  for (const std::string& name : all) {
    const absl::StatusOr<std::string> size = ReadSetting(absl::StrCat(sysfs, "/block/", name, "/disksize"));
    if (!old.contains(name) && size.ok() && *size == "0") made.push_back(name);
  }
  if (made.empty()) return absl::OkStatus();
  if (made.size() > 1) {
    return absl::FailedPreconditionError(
        absl::StrCat("one of these devices is left over, and it cannot be told which: ", absl::StrJoin(made, ", "),
                     "; write the number of each that nobody wants to ", sysfs, "/class/zram-control/hot_remove"));
  }
  return HotRemove(sysfs, absl::StripPrefix(made.front(), "zram"));
}

absl::Status RemoveCgroup(const std::string& cgroup) {
  if (absl::Status status = KillAllIn(cgroup); !status.ok()) return status;
  return UnlessGone(RetryWhileBusy([&] {
    return rmdir(cgroup.c_str()) == 0 ? absl::OkStatus() : absl::ErrnoToStatus(errno, absl::StrCat("rmdir ", cgroup));
  }));
}

absl::StatusOr<std::vector<pid_t>> ProcessesOf(const std::string& cgroup) {
  const absl::StatusOr<std::string> text = ReadSetting(cgroup + "/cgroup.procs");
  if (!text.ok()) return text.status();
  std::vector<pid_t> processes;
  for (const absl::string_view line : absl::StrSplit(*text, '\n', absl::SkipEmpty())) {
    pid_t process = 0;
    // 0: one that cannot be seen from here.
    if (absl::SimpleAtoi(line, &process) && process > 0) processes.push_back(process);
  }
  return processes;
}

// A number may have become another process's since it was read: a descriptor is taken first, and used if the number is
// still in the cgroup then.
absl::Status KillOnce(const std::string& cgroup, const std::vector<pid_t>& processes) {
  std::vector<std::pair<pid_t, UniqueFd>> held;
  for (const pid_t process : processes) {
    held.emplace_back(process, UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, process, 0))));
  }
  const absl::StatusOr<std::vector<pid_t>> now = ProcessesOf(cgroup);
  if (!now.ok()) return now.status();
  for (const auto& [process, fd] : held) {
    if (!fd.valid() || std::find(now->begin(), now->end(), process) == now->end()) continue;
    syscall(SYS_pidfd_send_signal, fd.get(), SIGKILL, nullptr, 0);
  }
  return absl::OkStatus();
}

}  // namespace

std::string ToLine(const Undo& undo) {
  const nlohmann::json json = {
      {"undo", std::string(NameOf(undo.kind))}, {"target", undo.target}, {"value", undo.value}};
  return json.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) + "\n";
}

absl::StatusOr<Undo> ParseUndo(absl::string_view line) {
  const auto json = nlohmann::json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
  const auto text = [&](const char* key) -> const std::string* {
    const auto found = json.is_object() ? json.find(key) : json.end();
    return found != json.end() && found->is_string() ? found->get_ptr<const std::string*>() : nullptr;
  };
  const std::string *const name = text("undo"), *const target = text("target"), *const value = text("value");
  for (const auto& [kind, n] : kNames) {
    if (name != nullptr && *name == n && target != nullptr && absl::StartsWith(*target, "/") && value != nullptr) {
      return Undo{.kind = kind, .target = *target, .value = *value};
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("this does not say how to undo a change: ", line));
}

std::string Describe(const Undo& undo) {
  switch (undo.kind) {
    case Kind::kWrite:
      return absl::StrCat(undo.target, " is ", undo.value);
    case Kind::kSwapOff:
      return absl::StrCat("no swap space on ", undo.target);
    case Kind::kResetZram:
      return absl::StrCat(undo.target, " is empty");
    case Kind::kRemoveZram:
      return absl::StrCat(undo.target, " has gone");
    case Kind::kRemoveNewZrams:
      return absl::StrCat("no zram devices but ", undo.value.empty() ? "none" : undo.value);
    case Kind::kRemoveCgroup:
      return absl::StrCat("the cgroup ", undo.target, " has gone");
  }
  return "";
}

absl::Status Apply(const Undo& undo, const SwapCalls& swap) {
  switch (undo.kind) {
    case Kind::kWrite:
      return UnlessGone(WriteSetting(undo.target, undo.value));
    case Kind::kSwapOff:
      return SwapOff(undo.target, swap);
    case Kind::kResetZram:
      return ResetZram(undo.target, undo.value);
    case Kind::kRemoveZram:
      return RemoveZram(undo.target, undo.value);
    case Kind::kRemoveNewZrams:
      return RemoveNewZrams(undo.target, undo.value);
    case Kind::kRemoveCgroup:
      return RemoveCgroup(undo.target);
  }
  return absl::InternalError("a kind of change that there is not");
}

absl::Status KillAllIn(const std::string& cgroup) {
  const MonotonicTime end = RealClock().Now() + kPatience;
  for (;;) {
    const absl::StatusOr<std::vector<pid_t>> processes = ProcessesOf(cgroup);
    if (!processes.ok()) return UnlessGone(processes.status());
    if (processes->empty()) return absl::OkStatus();
    if (RealClock().Now() > end) {
      return absl::DeadlineExceededError(
          absl::StrCat("process ", processes->front(), " in ", cgroup, " does not end although it was killed"));
    }
    if (absl::Status status = KillOnce(cgroup, *processes); !status.ok()) return UnlessGone(status);
    absl::SleepFor(kTryAgain);
  }
}

std::string ZramsIn(const std::string& block) {
  std::set<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(block, error)) {
    const std::string name = entry.path().filename();
    if (absl::StartsWith(name, "zram")) names.insert(name);
  }
  return absl::StrJoin(names, ",");
}

}  // namespace quire
