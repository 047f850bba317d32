#include "vmm/pc_options.h"

#include <dirent.h>
#include <string.h>

#include <memory>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "vmm/boot/pc_layout.h"
#include "vmm/files.h"
#include "vmm/size_flag.h"
#include "vmm/text.h"

ABSL_FLAG(std::optional<std::string>, kernel, std::nullopt,
          "boot this kernel instead of a workload: a bzImage of Linux (vmlinuz), an ELF image with a PVH entry "
          "(vmlinux) or a multiboot one; auto: the newest vmlinuz in /boot; needs KVM with nested paging");
ABSL_FLAG(std::optional<std::string>, initrd, std::nullopt,
          "the kernel's initramfs (default with --kernel=auto: a small one of Quire's own, which prints what it sees "
          "and powers off)");
ABSL_FLAG(std::string, cmdline, std::string(quire::PcOptions::kDefaultCommandLine), "the kernel's command line");
ABSL_FLAG(std::optional<std::string>, disk, std::nullopt,
          "raw image files for disks, /dev/vda and so on, with commas between them; the word ro after one makes it "
          "read-only, and only such can be shared by several guests");
ABSL_FLAG(quire::ByteCount, balloon, quire::ByteCount(),
          "memory that each guest's balloon is to take from it from the start");
ABSL_FLAG(std::optional<std::string>, console, std::nullopt,
          "where guests' consoles lead: terminal (Ctrl-A x quits), lines (each with its guest's name), or a file, in "
          "whose name %d stands for the guest's number (default: terminal, if there is one and one guest)");

namespace quire {
namespace {

constexpr absl::string_view kKernelPrefix = "vmlinuz-";
constexpr absl::string_view kReadOnly = "ro";

template <typename... Args>
absl::Status Bad(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}

// The first flag that says something about a guest that --kernel would have to be given for; empty if there is none.
absl::string_view FlagWithoutKernel() {
  if (absl::GetFlag(FLAGS_initrd)) return "initrd";
  if (absl::GetFlag(FLAGS_cmdline) != PcOptions::kDefaultCommandLine) return "cmdline";
  if (absl::GetFlag(FLAGS_disk)) return "disk";
  if (absl::GetFlag(FLAGS_balloon) > ByteCount()) return "balloon";
  return absl::GetFlag(FLAGS_console) ? "console" : "";
}

}  // namespace

std::string ConsoleTarget::PathOf(int guest) const { return absl::StrReplaceAll(path, {{"%d", absl::StrCat(guest)}}); }

FlagGroup PcFlags() {
  return {"A kernel of your own",
          {{"kernel", "FILE", "write the path of a kernel, or auto"},
           {"initrd", "FILE", "write the path of an initramfs"},
           {"cmdline", "WORDS", "write the words of a kernel's command line, such as 'console=ttyS0 quiet'"},
           {"disk", "FILES", "write the path of an image file, or FILE,ro"},
           {"balloon", "SIZE", "write a size such as 128M"},
           {"console", "WHERE", "write terminal, lines or the path of a file"}}};
}

absl::StatusOr<std::optional<PcOptions>> PcOptionsFromFlags(const std::string& boot) {
  const std::optional<std::string> kernel = absl::GetFlag(FLAGS_kernel);
  if (!kernel) {
    if (const absl::string_view flag = FlagWithoutKernel(); !flag.empty()) {
      return Bad("--", flag, " is about a guest with a kernel of its own: give a --kernel too, or leave it out");
    }
    return std::nullopt;
  }
  PcOptions options{.kernel = *kernel, .initrd = absl::GetFlag(FLAGS_initrd)};
  if (*kernel == PcOptions::kAutomatic) {
    absl::StatusOr<std::string> found = FindKernel(boot);
    if (!found.ok()) return found.status();
    options.kernel = *std::move(found);
    options.own_initramfs = !options.initrd.has_value();
  }
  options.command_line = absl::GetFlag(FLAGS_cmdline);
  if (const std::optional<std::string> disks = absl::GetFlag(FLAGS_disk)) {
    absl::StatusOr<std::vector<DiskOptions>> parsed = ParseDisks(*disks);
    if (!parsed.ok()) return parsed.status();
    options.disks = *std::move(parsed);
  }
  if (absl::Status status = OverrideByFlags(options); !status.ok()) return status;
  return options;
}

absl::Status OverrideByFlags(PcOptions& options) {
  if (const ByteCount balloon = absl::GetFlag(FLAGS_balloon); balloon > ByteCount()) options.balloon = balloon;
  const std::optional<std::string> console = absl::GetFlag(FLAGS_console);
  if (!console) return absl::OkStatus();
  absl::StatusOr<ConsoleTarget> parsed = ParseConsole(*console);
  if (parsed.ok()) options.console = *std::move(parsed);
  return parsed.status();
}

absl::Status Validate(const PcOptions& options, ByteCount memory, int guests) {
  if (memory < kPcMinMemory || memory > kPcMaxMemory) {
    return Bad("--memory=", SizeToFlag(memory), " is not what a PC can have: write ", SizeToFlag(kPcMinMemory), " to ",
               SizeToFlag(kPcMaxMemory));
  }
  if (options.balloon >= memory) {
    return Bad("--balloon=", SizeToFlag(options.balloon), " would leave nothing of --memory=", SizeToFlag(memory),
               ": write less");
  }
  if (options.disks.size() > kMostDisks) {
    return Bad("--disk names ", options.disks.size(), " files and a guest has room for ", kMostDisks,
               " disks: write fewer");
  }
  for (const DiskOptions& disk : options.disks) {
    if (guests == 1 || disk.read_only) continue;
    return Bad("--disk=", disk.path, " would be written to by all of ", guests, " guests: write ", disk.path, ",",
               kReadOnly, ", or run one guest");
  }
  if (guests == 1 || !options.console) return absl::OkStatus();
  if (options.console->kind == ConsoleTarget::Kind::kTerminal) {
    return Bad("--console=terminal is for one guest and there are ", guests, ": write lines, or a file with %d in it");
  }
  if (options.console->kind == ConsoleTarget::Kind::kFile && !absl::StrContains(options.console->path, "%d")) {
    return Bad("--console=", options.console->path, " would be one file for ", guests,
               " guests: write %d where the guest's number is to stand");
  }
  return absl::OkStatus();
}

absl::Status CheckFiles(const PcOptions& options) {
  if (absl::Status s = CheckReadable("kernel", options.kernel); !s.ok()) return s;
  if (options.initrd) {
    if (absl::Status s = CheckReadable("initrd", *options.initrd); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<DiskOptions>> ParseDisks(absl::string_view text) {
  std::vector<DiskOptions> disks;
  for (const absl::string_view word : absl::StrSplit(text, ',')) {
    if (word == kReadOnly && !disks.empty()) {
      disks.back().read_only = true;
    } else if (word.empty() || word == kReadOnly) {
      return Bad("--disk=", text, " has no file name where there should be one: write FILE or FILE,", kReadOnly);
    } else {
      disks.push_back({.path = std::string(word)});
    }
  }
  return disks;
}

absl::StatusOr<ConsoleTarget> ParseConsole(absl::string_view text) {
  if (text.empty()) return Bad("--console= leads nowhere: write terminal, lines or the path of a file");
  if (text == "terminal") return ConsoleTarget{.kind = ConsoleTarget::Kind::kTerminal};
  if (text == "lines") return ConsoleTarget{.kind = ConsoleTarget::Kind::kLines};
  return ConsoleTarget{.kind = ConsoleTarget::Kind::kFile, .path = std::string(text)};
}

absl::StatusOr<std::string> FindKernel(const std::string& directory) {
  const std::unique_ptr<DIR, int (*)(DIR*)> files(opendir(directory.c_str()), closedir);
  std::string newest;
  while (const dirent* file = files == nullptr ? nullptr : readdir(files.get())) {
    if (!absl::StartsWith(file->d_name, kKernelPrefix)) continue;
    if (newest.empty() || strverscmp(file->d_name, newest.c_str()) > 0) newest = file->d_name;
  }
  if (!newest.empty()) return absl::StrCat(directory, "/", newest);
  return absl::NotFoundError(absl::StrCat("--kernel=auto takes the newest ", directory, "/", kKernelPrefix,
                                          "*, and there is none: write the path of a kernel"));
}

}  // namespace quire
