// What tests of guests with a kernel of their own have in common. They run the real program in the laboratory;
// `tools/dev test lab` brings along what they boot from (docs/laboratory.md).
#ifndef QUIRE_TESTS_LAB_GUEST_TEST_H_
#define QUIRE_TESTS_LAB_GUEST_TEST_H_

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/lab/quire_process.h"
#include "vmm/console_report.h"

namespace quire {

// How long a run may take: some twenty times what a boot takes in the laboratory on an idle host, and more for work
// under pressure.
inline constexpr absl::Duration kBootLimit = absl::Seconds(240);
inline constexpr absl::Duration kWorkLimit = absl::Seconds(400);

struct Outcome {
  int status = -1;
  std::string said;                   // on standard output and standard error
  nlohmann::json report;              // null if it wrote none
  std::vector<std::string> consoles;  // one for each guest
};

std::string Contents(const std::string& path);
void WriteFile(const std::string& path, const std::string& content);

ConsoleReport ReportOf(const std::string& console);

// What each guest that went well says; and the run's report has it too.
void ExpectGoodGuests(const Outcome& outcome);

// With files of its own.
class GuestTest : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  // The path of a file that is deleted in the end.
  std::string NewFile(const std::string& name);
  // Where reports and consoles of runs go; %d is the guest's number.
  std::string report_path() { return NewFile("report"); }
  std::string console_path() const { return directory_ + "/console-%d"; }
  nlohmann::json ReadReport();

  // Runs `quire` with these words, and a console file for each guest, to its end.
  Outcome RunToEnd(std::vector<std::string> words, int guests, absl::Duration limit);

 private:
  std::string directory_ = testing::TempDir() + "/quire-guest-XXXXXX";
  std::vector<std::string> files_;
};

// Boots Debian's kernels, whose first process does what quire.work= of the command line says (tools/lab/guest/init).
class LinuxGuestTest : public GuestTest {
 protected:
  // Below the directory that the laboratory runs its command in.
  static std::string GuestFile(const std::string& series, const std::string& name);
  static bool IsThere(const std::string& series);

  // The words to run such guests with, from a kernel in its packaged form.
  static std::vector<std::string> Words(const std::string& series, const std::string& work, int guests,
                                        const std::vector<std::string>& more);
  // Runs so many guests of a kernel until they have powered off.
  Outcome Run(const std::string& series, const std::string& work, int guests, absl::Duration limit,
              const std::vector<std::string>& more);
};

// For what need not be tried with every kernel.
class LinuxWorkTest : public LinuxGuestTest {
 protected:
  static constexpr const char* kSeries = "6.12";

  void SetUp() override;
  // Takes the words of a kernel in its packaged form. The one that is unpacked, if there is such, boots sooner, and by
  // another entry.
  static std::vector<std::string> Unpacked(std::vector<std::string> words);
};

// What `quire balloon` says, without setting it.
struct BalloonState {
  double pool_mib = 0;  // in use
  double peak_mib = 0;  // the most of it that ever was
  double actual_mib = 0;
  double reported_mib = 0;  // over the run
  double free_mib = 0;      // as the guest's driver says
};
// False, and nothing changed: the run has ended.
bool AskBalloon(int guest, BalloonState& state);

}  // namespace quire

#endif  // QUIRE_TESTS_LAB_GUEST_TEST_H_
