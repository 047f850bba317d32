#include "vmm/manage_command.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/flags/declare.h"
#include "absl/flags/flag.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "vmm/flags.h"
#include "vmm/interrupt.h"
#include "vmm/libvirt/manage/manager.h"
#include "vmm/libvirt/manage/policy.h"

ABSL_DECLARE_FLAG(bool, once);
ABSL_FLAG(std::optional<std::string>, connect, std::nullopt,
          "the host, as libvirt names it: qemu:///system for this one, qemu+ssh://root@other/system for another");
ABSL_FLAG(std::optional<std::string>, policy, std::nullopt,
          "how its domains are to be managed (default: as policies/default.toml says)");
ABSL_FLAG(bool, dry_run, false, "change nothing: only say what would be changed, and why");
ABSL_FLAG(bool, undo, false, "only put back what an earlier `quire manage` has left changed");

namespace quire {
namespace {

const std::vector<FlagGroup>& ManageFlags() {
  static const auto* groups = new std::vector<FlagGroup>{
      {"What is managed",
       {{"connect", "URI", "write an address such as qemu:///system"},
        {"policy", "FILE", "write the path of a policy's file, such as policies/default.toml"}}},
      {"How",
       {{"dry_run", "", "write --dry-run", "true"},
        {"once", "", "write --once", "true"},
        {"undo", "", "write --undo", "true"}}}};
  return *groups;
}

absl::StatusOr<ManageOptions> OptionsFromFlags() {
  ManageOptions options = {.uri = absl::GetFlag(FLAGS_connect).value_or(""),
                           .dry_run = absl::GetFlag(FLAGS_dry_run),
                           .once = absl::GetFlag(FLAGS_once),
                           .undo = absl::GetFlag(FLAGS_undo)};
  if (options.uri.empty()) {
    return absl::InvalidArgumentError("no host is named: write --connect=qemu:///system for this one");
  }
  if (options.undo && (options.dry_run || options.once)) {
    return absl::InvalidArgumentError("--undo looks at no domains: leave --dry-run and --once out");
  }
  if (const std::optional<std::string> file = absl::GetFlag(FLAGS_policy)) {
    absl::StatusOr<Policy> policy = ReadPolicy(*file);
    if (!policy.ok()) return policy.status();
    options.policy = *std::move(policy);
  }
  return options;
}

}  // namespace

std::string ManageHelp() {
  return absl::StrCat(
      "Usage: quire manage --connect=URI [--policy=FILE] [flags]\n\n"
      "Watches the domains that run on a host of libvirt's, and divides the host's memory between them by a policy: "
      "by\n"
      "shares, with a tax on what is idle, within bounds for each, and never below what a guest uses. It sets "
      "balloons,\n"
      "and, if the policy says so, the host's same-page merging (KSM) and soft limits. Each change is said, with its\n"
      "reason. When it ends, everything is put back; if it was killed, the next one does that. docs/libvirt.md has "
      "the\n"
      "keys of policies.\n\n",
      FlagsHelp(ManageFlags()),
      "Examples\n"
      "  quire manage --connect=qemu:///system --dry-run --once\n"
      "      what is so now, and what would be done; needs no right to change anything\n"
      "  quire manage --connect=qemu:///system --policy=policies/default.toml\n"
      "      until Ctrl-C, a change a line\n"
      "  quire manage --connect=qemu+ssh://root@other/system --policy=mine.toml\n"
      "      another host\n"
      "  quire manage --connect=qemu:///system --undo\n"
      "      after one that was killed, or that had --once\n\n");
}

absl::Status ManageCommand(absl::Span<const absl::string_view> args, Console& console) {
  if (absl::Status parsed = ParseFlags("quire manage", args, ManageFlags()); !parsed.ok()) return parsed;
  const absl::StatusOr<ManageOptions> options = OptionsFromFlags();
  if (!options.ok()) return options.status();
  CatchInterrupts();
  return ManageDomains(*options, RealManageSeams(options->uri), console.out, console.err);
}

}  // namespace quire
