//! What clouds and registries are asked about credentials, and what they have answered.

use std::collections::HashMap;
use std::sync::Arc;

use pullpass_core::key::RegistryKey;

use super::{Inner, World};
use crate::clock;
use crate::heard::{Before, FailedLogin, Heard, Issued};
use crate::inquiry::{Login, Question, Verification};
use crate::queue::Lane;

impl World {
    /// What clouds and registries have said about a Registry's credential.
    pub(crate) fn heard(&self, name: &str) -> Option<Heard> {
        self.lock().heard.get(name).cloned()
    }

    /// The registry is now asked in this way. What another process has found out holds for the first one only.
    pub(crate) fn asks_in_way(&self, name: &str, way: &str) {
        if let Some(heard) = self.lock().heard.get_mut(name)
            && heard.way.as_deref() != Some(way)
        {
            if heard.way.is_some() {
                heard.before.is_verified = false;
            }
            heard.way = Some(way.to_owned());
        }
    }

    /// Sets what a cloud and the registry are to be asked; a question that is asked already goes on.
    pub(crate) fn ask(
        &self,
        name: &str,
        login: Option<Question<Login>>,
        verification: Option<Question<Verification>>,
    ) {
        let mut inner = self.lock();
        let is_new_login = set_question(&mut inner.login_questions, name, login);
        let is_new_verification =
            set_question(&mut inner.verification_questions, name, verification);
        drop(inner);
        if is_new_login {
            self.logins.add(name.to_owned(), Lane::Express);
        }
        if is_new_verification {
            self.verifications.add(name.to_owned(), Lane::Express);
        }
    }

    /// What a cloud is to be asked for a Registry.
    pub(crate) fn login_question(&self, name: &str) -> Option<Arc<Question<Login>>> {
        self.lock().login_questions.get(name).map(Arc::clone)
    }

    /// What a Registry is to be asked.
    pub(crate) fn verification_question(&self, name: &str) -> Option<Arc<Question<Verification>>> {
        self.lock().verification_questions.get(name).map(Arc::clone)
    }

    /// A cloud has answered.
    pub(crate) fn logged_in(
        &self,
        name: &str,
        question: &Arc<Question<Login>>,
        answer: Result<Issued, FailedLogin>,
    ) {
        let mut inner = self.lock();
        let is_asked = inner
            .login_questions
            .get(name)
            .is_some_and(|asked| Arc::ptr_eq(asked, question));
        if !is_asked {
            return;
        }
        let has_answer = answer.is_ok();
        if let Some(heard) = inner.heard.get_mut(name) {
            match answer {
                Ok(issued) => (heard.issued, heard.failed) = (Some(issued), None),
                Err(failed) => heard.failed = Some(failed),
            }
        }
        if has_answer {
            inner.login_questions.remove(name);
        }
        drop(inner);
        self.registries.add(name.to_owned(), Lane::Express);
    }

    /// The registries of a Registry's keys have answered.
    pub(crate) fn verified(
        &self,
        name: &str,
        question: &Arc<Question<Verification>>,
        answers: Vec<(RegistryKey, pullpass_providers::verify::Verification)>,
    ) {
        let now = clock::time_of_day();
        let mut inner = self.lock();
        let is_asked = inner
            .verification_questions
            .get(name)
            .is_some_and(|asked| Arc::ptr_eq(asked, question));
        if !is_asked {
            return;
        }
        inner.verification_questions.remove(name);
        if let Some(heard) = inner.heard.get_mut(name) {
            for (key, verification) in answers {
                if let Some(login) = question.about.entries.get(&key) {
                    let way = &question.about.way;
                    heard.add_proof(&key, login, way, verification, now);
                }
            }
        }
        drop(inner);
        self.registries.add(name.to_owned(), Lane::Express);
    }
}

impl Inner {
    pub(super) fn begin_to_hear(&mut self, name: &str) {
        if let Some(known) = self.registries.get(name) {
            let heard = Heard::nothing(clock::time_of_day(), Before::of(&known.object));
            self.heard.insert(name.to_owned(), heard);
        }
    }

    pub(super) fn forget_answers(&mut self, name: &str) {
        self.heard.remove(name);
        self.login_questions.remove(name);
        self.verification_questions.remove(name);
        self.rests.remove(name);
    }
}

/// Returns whether the question is another than before.
fn set_question<T>(
    questions: &mut HashMap<String, Arc<Question<T>>>,
    name: &str,
    question: Option<Question<T>>,
) -> bool {
    match question {
        None => {
            questions.remove(name);
            false
        }
        Some(question) => {
            if questions
                .get(name)
                .is_some_and(|asked| asked.text == question.text)
            {
                return false;
            }
            questions.insert(name.to_owned(), Arc::new(question));
            true
        }
    }
}
