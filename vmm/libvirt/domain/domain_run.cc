#include "vmm/libvirt/domain/domain_run.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "vmm/text.h"

namespace quire {
namespace {

template <typename... Args>
absl::Status Bad(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}

// Flags that say what a guest is, and what of a domain says so.
struct Said {
  const char* flag;
  const char* by;
};
constexpr Said kSaidByDomain[] = {
    {"guests", "it is one guest"}, {"clones", "it is one guest"},      {"memory", "its <memory> does"},
    {"vcpus", "its <vcpu> does"},  {"kernel", "its <os> does"},        {"initrd", "its <os> does"},
    {"cmdline", "its <os> does"},  {"workload", "its <os> does"},      {"payload", "its <os> does"},
    {"disk", "its <devices> do"},  {"content", "its own programs do"},
};

absl::Status CheckFlags(const DomainGuest& guest, const std::set<std::string>& given) {
  for (const Said& said : kSaidByDomain) {
    if (given.count(said.flag) == 0) continue;
    return Bad("--", said.flag, " is not for --domain to be given with, since ", said.by,
               ": change the domain, or leave --", said.flag, " out");
  }
  if (!guest.pc.balloon_offer.exists && given.count("balloon") > 0) {
    return Bad("--balloon is for a guest that has one, and the domain says <memballoon model='none'/>: leave it out");
  }
  return absl::OkStatus();
}

absl::Status ApplyPolicies(const DomainGuest& guest, const std::set<std::string>& given, RunOptions& options) {
  if (!guest.shares_pages) {
    if (given.count("merge") > 0 && options.merge == Merge::kOn) {
      return Bad("--merge=on contradicts the domain's <nosharepages/>: leave one of them out");
    }
    options.merge = Merge::kOff;
  }
  if (guest.huge_pages && options.huge != Huge::kAlways) {
    return Bad("--huge=", Name(options.huge), " contradicts the domain's <hugepages/>: leave one of them out");
  }
  return absl::OkStatus();
}

absl::Status ApplyLocked(const std::set<std::string>& given, RunOptions& options) {
  if (!options.swap.empty()) return Bad("--swap contradicts the domain's <locked/>: leave one of them out");
  const ByteCount least = PoolForLocked(options.memory);
  if (given.count("pool") == 0) options.pool = least;
  if (options.pool >= least) return absl::OkStatus();
  return Bad("--pool=", SizeToFlag(options.pool), " is too small for all of the guest's memory to stay in it, as the ",
             "domain's <locked/> says: write ", SizeToFlag(least), " or more, or leave it out");
}

}  // namespace

ByteCount PoolForLocked(ByteCount memory) {
  const ByteCount room = ByteCount::MiB(64) + ByteCount::Bytes(memory.in_bytes() / 32);
  return PageCount::OfBlocks(PageCount::Ceil(memory + room).in_blocks_ceil()).bytes();
}

absl::StatusOr<RunOptions> RunOptionsOf(const DomainGuest& guest, const std::string& xml,
                                        const std::set<std::string>& given) {
  if (absl::Status status = CheckFlags(guest, given); !status.ok()) return status;
  PcOptions pc = guest.pc;
  pc.domain_xml = xml;
  absl::StatusOr<RunOptions> options = RunOptionsFromFlags(pc);
  if (!options.ok()) return options;
  options->memory = guest.memory;
  options->vcpus = guest.vcpus;
  if (given.count("pool") == 0) options->pool = options->default_pool();
  if (given.count("guest_pool_limit") == 0) options->guest_pool_limit = guest.pool_limit;
  if (given.count("guest_swap_limit") == 0) options->guest_swap_limit = guest.swap_limit;
  if (absl::Status status = ApplyPolicies(guest, given, *options); !status.ok()) return status;
  if (!guest.locked) return options;
  const absl::Status locked = ApplyLocked(given, *options);
  return locked.ok() ? options : locked;
}

}  // namespace quire
