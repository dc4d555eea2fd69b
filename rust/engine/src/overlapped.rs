//! The overlapped loop: the host takes a step in and decides the next but one, while the device computes the next.
//!
//! ```text
//!   simple       host    decide N ┐            ┌ take N in, decide N + 1 ┐            ┌ take N + 1 in ...
//!                device           └─ step N ───┘         (waits)         └ step N + 1 ┘
//!
//!   overlapped   host    decide N, N + 1 ┐       ┌ take N in, decide N + 2 ┐   ┌ take N + 1 in, decide N + 3 ...
//!                device           └─ step N ─────┴─ step N + 1 ────────────────┴─ step N + 2 ...
//! ```
//!
//! Tokens of step N are ids of step N + 1 without leaving the device. That takes steps of which both are known beforehand: the
//! scheduler's [`schedule_ahead`](rustllm_core::Scheduler::schedule_ahead) says which the next is, a captured graph computes it
//! whole. Wherever one of them says no, the step is taken in first, and the loop is [`Engine::step`]. Tokens are the same.

use rustllm_core::SchedulerOutput;
use rustllm_ops::Result;

use crate::decode_graphs::PendingTokens;
use crate::model_runner::Begun;
use crate::{Engine, EngineOutput};

/// A step that the device computes.
#[derive(Debug)]
pub(crate) struct StepUnderWay {
    scheduled: SchedulerOutput,
    tokens: PendingTokens,
}

impl Engine {
    /// As [`step`](Self::step), one step late where the next one can be begun before this one's tokens are known.
    pub fn step_overlapped(&mut self) -> Vec<EngineOutput> {
        let mut outputs = std::mem::take(&mut self.ended);
        let Some(step) = self.under_way.take().or_else(|| self.begin_next(&mut outputs)) else { return outputs };
        let ahead = self.scheduler.schedule_ahead().map(|scheduled| {
            self.num_steps += 1;
            let begun = self.runner.begin(&self.scheduler, &scheduled);
            (scheduled, begun)
        });
        let taken_in = self.take_in(step, &mut outputs);
        if let Some((scheduled, begun)) = ahead {
            match taken_in.and(begun) {
                Ok(begun) => self.under_way = self.go_on(scheduled, begun, &mut outputs),
                Err(error) => self.fail(&scheduled, &error, &mut outputs),
            }
        }
        outputs
    }

    /// Takes in the step under way, if there is one; its outputs come with the next step.
    pub(crate) fn finish_step_under_way(&mut self) {
        if let Some(step) = self.under_way.take() {
            let mut outputs = std::mem::take(&mut self.ended);
            // A failure is in the outputs of the sequences it ended.
            let _ = self.take_in(step, &mut outputs);
            self.ended = outputs;
        }
    }

    /// Begins a step with nothing under way. `None` when it is over already, or there is none.
    fn begin_next(&mut self, outputs: &mut Vec<EngineOutput>) -> Option<StepUnderWay> {
        self.num_steps += 1;
        let scheduled = self.scheduler.schedule();
        if scheduled.is_empty() {
            return None;
        }
        match self.runner.begin(&self.scheduler, &scheduled) {
            Ok(begun) => self.go_on(scheduled, begun, outputs),
            Err(error) => {
                self.fail(&scheduled, &error, outputs);
                None
            }
        }
    }

    /// What is left to wait for of a step that was begun. The step before it, if there was one, has been taken in.
    fn go_on(
        &mut self,
        scheduled: SchedulerOutput,
        begun: Begun,
        outputs: &mut Vec<EngineOutput>,
    ) -> Option<StepUnderWay> {
        let rows = match begun {
            Begun::Launched(tokens) => return Some(StepUnderWay { scheduled, tokens }),
            Begun::Computed(rows) => Ok(rows),
            Begun::Waits => self.runner.execute_late(&self.scheduler, &scheduled),
        };
        match rows {
            Ok(rows) => self.record(&scheduled, rows, outputs),
            Err(error) => self.fail(&scheduled, &error, outputs),
        }
        None
    }

    /// Waits for a step, and ends its sequences if it failed.
    fn take_in(&mut self, step: StepUnderWay, outputs: &mut Vec<EngineOutput>) -> Result<()> {
        let StepUnderWay { scheduled, tokens } = step;
        match self.runner.finish(&self.scheduler, &scheduled, tokens) {
            Ok(rows) => self.record(&scheduled, rows, outputs),
            Err(error) => {
                self.fail(&scheduled, &error, outputs);
                return Err(error);
            }
        }
        Ok(())
    }
}
