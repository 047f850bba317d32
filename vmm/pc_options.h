// What `quire run --kernel` is asked to do: a PC guest and what it boots.
#ifndef QUIRE_VMM_PC_OPTIONS_H_
#define QUIRE_VMM_PC_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/units.h"
#include "vmm/flags.h"
#include "vmm/machine/pc_shape.h"
#include "vmm/virtio/balloon_offer.h"

namespace quire {

// What becomes of what is in a file that is there already.
enum class WhereThereIsOne : uint8_t { kReplace, kAppend };

// Where guests' consoles lead.
struct ConsoleTarget {
  enum class Kind : uint8_t {
    kTerminal,  // the user's, with its keyboard
    kLines,     // whole lines, each with its guest's name
    kFile,      // as they are, into a file for each guest
  } kind = Kind::kLines;
  std::string path = {};  // of kFile; %d stands for the guest's number
  WhereThereIsOne how = WhereThereIsOne::kReplace;

  std::string PathOf(int guest) const;
};

struct PcOptions {
  static constexpr absl::string_view kAutomatic = "auto";
  // Output where the user sees it, and no guest that waits for ever in a panic.
  static constexpr absl::string_view kDefaultCommandLine = "console=ttyS0 panic=-1";

  std::string kernel;                      // path
  std::optional<std::string> initrd = {};  // path; without a value there is none
  bool own_initramfs = false;              // the project's own instead
  std::string command_line = std::string(kDefaultCommandLine);
  std::vector<DiskOptions> disks = {};
  ByteCount balloon = {};
  BalloonOffer balloon_offer = {};
  absl::Duration statistics_period = {};      // how often the balloon's driver is asked; zero: not by itself
  std::optional<ConsoleTarget> console = {};  // without a value: the terminal if there is one, and one guest
  // Of the only guest, where it has been described as a domain of libvirt's:
  std::string name = {};        // empty: it is guest-0
  std::string domain_xml = {};  // the description, which has been read (vmm/libvirt/domain); empty: there is none
};

// The flags, for RunFlags.
FlagGroup PcFlags();

// The options as the flags have them; nothing without --kernel. Looks for the kernel of --kernel=auto below `boot`.
// Errors: InvalidArgument; NotFound, no kernel is there.
absl::StatusOr<std::optional<PcOptions>> PcOptionsFromFlags(const std::string& boot = "/boot");

// Changes options that came from elsewhere as the flags --balloon and --console say, where they are given.
// Errors: InvalidArgument.
absl::Status OverrideByFlags(PcOptions& options);

// Whether they can be: `memory` is each guest's. Errors: InvalidArgument.
absl::Status Validate(const PcOptions& options, ByteCount memory, int guests);

// Whether the files can be read and written. Errors: InvalidArgument.
absl::Status CheckFiles(const PcOptions& options);

// "root.img,ro,data.img": each file that is followed by the word ro is read-only. Errors: InvalidArgument.
absl::StatusOr<std::vector<DiskOptions>> ParseDisks(absl::string_view text);

// terminal, lines or a path. Errors: InvalidArgument.
absl::StatusOr<ConsoleTarget> ParseConsole(absl::string_view text);

// The path of the newest kernel in a directory as Debian and others name them: vmlinuz-VERSION.
// Errors: NotFound.
absl::StatusOr<std::string> FindKernel(const std::string& directory);

}  // namespace quire

#endif  // QUIRE_VMM_PC_OPTIONS_H_
